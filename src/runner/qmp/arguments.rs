//! Arguments of commands, and what QEMU says of wrong ones.

use serde_json::{Map, Value};

/// Why a command fails: QMP's class and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `GenericError`, `CommandNotFound` …
    pub class: &'static str,
    /// What.
    pub desc: String,
}

impl Refusal {
    /// Of the class that most are of.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: "GenericError", desc: desc.into() }
    }

    /// A command that isn't there, or not now.
    pub fn not_found(desc: impl Into<String>) -> Self {
        Self { class: "CommandNotFound", desc: desc.into() }
    }

    /// A word that isn't one of those there are.
    pub fn no_value(parameter: &str, value: &str) -> Self {
        Self::generic(format!("Parameter '{parameter}' does not accept value '{value}'"))
    }
}

/// Arguments, taken one by one.
pub struct Arguments {
    /// Where they stand among others, as `keys[0].`.
    place: String,
    all: Map<String, Value>,
}

impl Arguments {
    /// Those of a command.
    pub fn of(all: Map<String, Value>) -> Self {
        Self { place: String::new(), all }
    }

    /// Those of an object that stands at `place`.
    ///
    /// # Errors
    /// When it is none.
    pub fn inside(place: &str, value: Value) -> Result<Self, Refusal> {
        match value {
            Value::Object(all) => Ok(Self { place: format!("{place}."), all }),
            _ => Err(wrong(place, "object")),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// That one is needed.
    pub fn missing(&self, name: &str) -> Refusal {
        Refusal::generic(format!("Parameter '{}' is missing", self.path(name)))
    }

    /// Takes those of an object.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn object(&mut self, name: &str) -> Result<Self, Refusal> {
        let value = self.take(name).ok_or_else(|| self.missing(name))?;
        Self::inside(&self.path(name), value)
    }

    /// Takes any value.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.all.remove(name)
    }

    /// Takes a string, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(&self.path(name), "string")),
        }
    }

    /// Takes an integer, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong(&self.path(name), "integer")),
        }
    }

    /// Takes a boolean, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| wrong(&self.path(name), "boolean")),
        }
    }

    /// Takes a list.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn list(&mut self, name: &str) -> Result<Vec<Value>, Refusal> {
        match self.take(name) {
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(wrong(&self.path(name), "array")),
            None => Err(self.missing(name)),
        }
    }

    /// Everything must have been taken.
    ///
    /// # Errors
    /// When something is left.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.all.keys().next() {
            None => Ok(()),
            Some(name) => Err(Refusal::generic(format!("Parameter '{}' is unexpected", self.path(name)))),
        }
    }
}

fn wrong(name: &str, expected: &str) -> Refusal {
    Refusal::generic(format!("Invalid parameter type for '{name}', expected: {expected}"))
}

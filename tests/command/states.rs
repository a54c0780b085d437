//! Machines' states, as the verbs tell them.

use std::time::Instant;

use serde_json::Value;

use super::home::{Home, Told};
use super::talk::PATIENCE;

/// The JSON that was printed.
#[track_caller]
pub fn data(told: Told) -> Value {
    let told = told.ends(0);
    serde_json::from_str(&told.out).unwrap_or_else(|e| panic!("{e} in {}", told.out))
}

/// A machine's state.
pub fn state(home: &Home, name: &str) -> String {
    data(home.kiln(&["domstate", name, "--json"]))["state"].as_str().unwrap().to_owned()
}

/// Waits until a machine is in a state.
#[track_caller]
pub fn becomes(home: &Home, name: &str, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    while state(home, name) != wanted {
        assert!(Instant::now() < deadline, "{name} never is {wanted}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

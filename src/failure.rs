//! How a verb fails: what, why, what to do, and with which exit status.

use std::fmt;
use std::process::ExitCode;

/// Exit status of kiln's own verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// What was named isn't there.
    NotFound = 3,
    /// It exists already, is in conflict, or locked.
    Conflict = 4,
    /// It took longer than allowed.
    Timeout = 5,
    /// A check found a difference or corruption.
    Verification = 6,
    /// Machines can't run on this host: no usable KVM, or no permission.
    NoKvm = 7,
    /// Ended by the user.
    Interrupted = 130,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status as u8)
    }
}

impl From<&kiln_image::Error> for Status {
    fn from(error: &kiln_image::Error) -> Self {
        use kiln_image::Error;
        match error {
            Error::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Status::NotFound,
            Error::InUse { .. } | Error::Exists { .. } => Status::Conflict,
            _ => Status::Failed,
        }
    }
}

/// A failure as the user reads it.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub status: Status,
    /// What went wrong, in one line.
    pub what: String,
    /// Why, from the nearest cause to the first.
    pub causes: Vec<String>,
    /// What to do about it, a line each.
    pub advice: Vec<String>,
    /// How virsh says it, a line each, where that isn't what and why.
    pub virsh: Vec<String>,
}

impl Failure {
    /// A failure without a deeper cause.
    pub fn new(status: Status, what: impl Into<String>) -> Self {
        Self { status, what: what.into(), causes: Vec::new(), advice: Vec::new(), virsh: Vec::new() }
    }

    /// Adds the chain of causes.
    pub fn because(mut self, error: &dyn std::error::Error) -> Self {
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Adds a cause in words.
    pub fn why(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds a line of what to do.
    pub fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }
}

impl Failure {
    /// Says it as virsh does, under whose name kiln answers so.
    pub fn in_virsh(mut self, line: impl Into<String>) -> Self {
        self.virsh = vec![line.into()];
        self
    }

    /// Puts what virsh says first in front.
    pub fn headed_in_virsh(mut self, line: impl Into<String>) -> Self {
        if self.virsh.is_empty() {
            self.virsh = self.plain();
        }
        self.virsh.insert(0, line.into());
        self
    }

    // What and why in one line, and what to do in more.
    fn plain(&self) -> Vec<String> {
        let why = self.causes.iter().map(|cause| format!(": {}", cause.trim_end().replace('\n', " ")));
        let mut lines = vec![why.fold(self.what.clone(), |line, cause| line + &cause)];
        lines.extend(self.advice.iter().cloned());
        lines
    }

    /// The text under the name virsh.
    pub fn told_by_virsh(&self) -> String {
        let lines = if self.virsh.is_empty() { self.plain() } else { self.virsh.clone() };
        lines.iter().map(|line| format!("error: {line}\n")).collect()
    }

    /// The text under the name by which the program was called.
    pub fn told_by(&self, program: &str) -> String {
        let mut text = format!("{program}: {}", self.what);
        for (number, cause) in self.causes.iter().enumerate() {
            text.push_str(&format!("\n  {}. {}", number + 1, indented(cause)));
        }
        for line in &self.advice {
            text.push_str(&format!("\n  > {}", indented(line)));
        }
        text + "\n"
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told_by("kiln"))
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n     ")
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut chain = error.chain().map(ToString::to_string);
        let what = chain.next().unwrap_or_default();
        Self { status: Status::Failed, what, causes: chain.collect(), advice: Vec::new(), virsh: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_what_why_what_to_do() {
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failure = Failure::new(Status::NotFound, "no machine web").because(&cause).advise("kiln list --all");
        assert_eq!(failure.to_string(), "kiln: no machine web\n  1. entity not found\n  > kiln list --all\n");
    }
}

//! What takes back the steps so far, on failure and on interruption, until the guest runs.
//!
//! A step and the note of how to take it back happen under one lock, so that an interrupt finds every step either whole
//! and noted or not begun.

use std::sync::Arc;

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Status};

/// How a step is taken back.
pub(crate) type Action = Box<dyn FnOnce() + Send>;

enum Stage {
    /// Before the guest first runs.
    Making(Vec<Action>),
    /// The guest runs: nothing is taken back any more.
    Running,
    /// Everything has been taken back.
    Undone,
    /// Everything is made, and this program is about to end.
    Finished,
}

/// The steps so far.
#[derive(Clone)]
pub(crate) struct Undo(Arc<Mutex<Stage>>);

impl Undo {
    /// Begins to listen for interruptions of the making of `name`.
    pub(crate) fn begin(name: &str) -> Result<Self, Failure> {
        let undo = Self(Arc::new(Mutex::new(Stage::Making(Vec::new()))));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|e| Failure::new(Status::Failed, "listening for Ctrl-C failed").because(&e))?;
        let (mine, name) = (undo.clone(), name.to_owned());
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                mine.interrupted(&name);
            }
        });
        Ok(undo)
    }

    // The lock is held to the process's end: no step begins any more.
    fn interrupted(&self, name: &str) {
        let mut stage = self.0.lock();
        match std::mem::replace(&mut *stage, Stage::Undone) {
            Stage::Making(actions) => {
                take_back(actions);
                super::finish::say_undone();
            }
            Stage::Running => super::finish::say_detached(name),
            // The main thread is about to say what failed; it was faster.
            Stage::Undone => {}
            Stage::Finished => {
                *stage = Stage::Finished;
                return;
            }
        }
        super::finish::leave(Status::Interrupted as i32);
    }

    /// Does a step, and notes how it is taken back.
    ///
    /// # Errors
    /// The step's own.
    pub(crate) fn step<T>(&self, step: impl FnOnce() -> Result<(T, Action), Failure>) -> Result<T, Failure> {
        let mut stage = self.0.lock();
        let (outcome, action) = step()?;
        if let Stage::Making(actions) = &mut *stage {
            actions.push(action);
        }
        Ok(outcome)
    }

    /// Starts the guest. When that has worked, nothing is taken back any more.
    ///
    /// # Errors
    /// The start's own.
    pub(crate) fn start<T>(&self, start: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut stage = self.0.lock();
        let outcome = start()?;
        *stage = Stage::Running;
        Ok(outcome)
    }

    /// Does the last step of what starts no guest. When that has worked, nothing is taken back any more.
    ///
    /// # Errors
    /// The step's own.
    pub(crate) fn finish<T>(&self, last: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut stage = self.0.lock();
        let outcome = last()?;
        *stage = Stage::Finished;
        Ok(outcome)
    }

    /// Takes everything back.
    pub(crate) fn now(&self) {
        let mut stage = self.0.lock();
        if let Stage::Making(actions) = std::mem::replace(&mut *stage, Stage::Undone) {
            take_back(actions);
        }
    }
}

fn take_back(actions: Vec<Action>) {
    actions.into_iter().rev().for_each(|action| action());
}

//! What takes back the steps so far, on failure and on interruption, until the guest runs.

use std::sync::Arc;

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Status};

type Action = Box<dyn FnOnce() + Send>;

enum Stage {
    /// Before the guest first runs.
    Making(Vec<Action>),
    /// The guest runs: nothing is taken back any more.
    Running,
}

/// The steps so far.
#[derive(Clone)]
pub(super) struct Undo(Arc<Mutex<Stage>>);

impl Undo {
    /// Begins to listen for interruptions of the making of `name`.
    pub(super) fn begin(name: &str) -> Result<Self, Failure> {
        let undo = Self(Arc::new(Mutex::new(Stage::Making(Vec::new()))));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|e| Failure::new(Status::Failed, "listening for Ctrl-C failed").because(&e))?;
        let (mine, name) = (undo.clone(), name.to_owned());
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                let stage = std::mem::replace(&mut *mine.0.lock(), Stage::Running);
                match stage {
                    Stage::Making(actions) => {
                        actions.into_iter().rev().for_each(|action| action());
                        eprintln!("\nkiln: interrupted before the guest ran; nothing is left of it");
                    }
                    Stage::Running => super::finish::say_detached(&name),
                }
                super::finish::leave(Status::Interrupted as i32);
            }
        });
        Ok(undo)
    }

    /// One more step can be taken back.
    pub(super) fn add(&self, action: impl FnOnce() + Send + 'static) {
        if let Stage::Making(actions) = &mut *self.0.lock() {
            actions.push(Box::new(action));
        }
    }

    /// Takes everything back.
    pub(super) fn now(&self) {
        if let Stage::Making(actions) = std::mem::replace(&mut *self.0.lock(), Stage::Running) {
            actions.into_iter().rev().for_each(|action| action());
        }
    }

    /// From now on nothing is taken back.
    pub(super) fn guest_runs(&self) {
        *self.0.lock() = Stage::Running;
    }
}

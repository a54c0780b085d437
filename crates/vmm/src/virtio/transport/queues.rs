//! The queues of a started device: their workers, and what they were when they stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::virtio::ring::Progress;
use crate::virtio::worker::{Parts, Worker};

/// Whether the driver has started the device.
pub(super) enum Activity {
    /// It hasn't, or has reset it.
    Inactive,
    /// It has, and the workers run.
    Active(Vec<Worker>),
    /// It has, and the machine is paused.
    Paused(Vec<Parts>),
}

/// Saved state of a started queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct QueueState {
    pub(super) queue: u16,
    pub(super) progress: Progress,
    pub(super) broken: bool,
    pub(super) handler: serde_json::Value,
}

impl QueueState {
    pub(super) fn of(parts: &Parts) -> Self {
        Self {
            queue: parts.queue,
            progress: parts.ring.progress(),
            broken: parts.broken,
            handler: parts.handler.save(),
        }
    }
}

/// Starts a worker for each queue; those that did start are stopped again when one doesn't.
///
/// # Errors
/// When the host has no room for a thread.
pub(super) fn start(parts: Vec<Parts>, numbers: &AtomicU32) -> io::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for parts in parts {
        match Worker::start(parts, numbers.fetch_add(1, Ordering::Relaxed)) {
            Ok(worker) => workers.push(worker),
            Err(error) => {
                stop(workers);
                return Err(error);
            }
        }
    }
    Ok(workers)
}

/// Stops all workers, each with the chain that it is at. Gives back what they worked with, or says how many died.
pub(super) fn stop(workers: Vec<Worker>) -> (Vec<Parts>, usize) {
    let total = workers.len();
    for worker in &workers {
        worker.ask_to_stop();
    }
    let parts: Vec<Parts> = workers.into_iter().filter_map(Worker::stopped).collect();
    let lost = total - parts.len();
    (parts, lost)
}

/// The machine's count of queue threads.
pub type Numbers = Arc<AtomicU32>;

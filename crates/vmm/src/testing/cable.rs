//! A network that keeps what the guest sends and gives it what a test puts in.

#![allow(clippy::unwrap_used)] // Only tests come here; failing is their way to speak.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

use crate::virtio::net::{Network, Offload, Received, Takes};

/// The network.
pub struct Cable {
    event: Arc<OwnedFd>,
    to_guest: Mutex<VecDeque<Received>>,
    sent: Mutex<Vec<(Vec<u8>, Offload)>>,
    more: Condvar,
    takes: Mutex<Vec<Takes>>,
}

impl Cable {
    /// A network without frames.
    pub fn new() -> Arc<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        Arc::new(Self {
            event: Arc::new(event),
            to_guest: Mutex::default(),
            sent: Mutex::default(),
            more: Condvar::new(),
            takes: Mutex::default(),
        })
    }

    /// Sends a frame to the guest.
    pub fn put(&self, bytes: &[u8], offload: Offload) {
        self.to_guest.lock().push_back(Received { bytes: bytes.to_vec(), offload });
        rustix::io::write(&self.event, &1u64.to_ne_bytes()).unwrap();
    }

    /// Frames that wait for the guest.
    pub fn waiting_frames(&self) -> usize {
        self.to_guest.lock().len()
    }

    /// The first frames that the guest has sent, once there are so many.
    pub fn sent(&self, count: usize) -> Vec<(Vec<u8>, Offload)> {
        let mut sent = self.sent.lock();
        while sent.len() < count {
            let timed_out = self.more.wait_for(&mut sent, std::time::Duration::from_secs(20)).timed_out();
            assert!(!timed_out, "{} frames came, not {count}", sent.len());
        }
        sent.clone()
    }

    /// What each driver took, one after the other.
    pub fn begun(&self) -> Vec<Takes> {
        self.takes.lock().clone()
    }
}

impl Network for Cable {
    fn begin(&self, takes: Takes) {
        self.takes.lock().push(takes);
    }

    fn send(&self, frame: &mut [u8], offload: Offload) -> bool {
        self.sent.lock().push((frame.to_vec(), offload));
        self.more.notify_all();
        true
    }

    fn receive(&self) -> Option<Received> {
        let mut frames = self.to_guest.lock();
        let next = frames.pop_front();
        if next.is_none() {
            // Nothing to take back when nothing was put.
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        next
    }

    fn waiting(&self) -> Arc<OwnedFd> {
        self.event.clone()
    }
}

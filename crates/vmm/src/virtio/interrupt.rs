//! How a device calls its driver: MSI-X, or INTx with the interrupt status (VIRTIO 1.2, 4.1.4.5, 4.1.5.1).
//!
//! Shared by the transport and the queue workers; it takes none of the transport's locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::bits::*;
use crate::pci::function::Endpoint;

pub(super) struct Interrupt {
    endpoint: Arc<Endpoint>,
    isr: Mutex<u8>,
    status: AtomicU8,
    generation: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
}

/// What of it a driver can see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InterruptState {
    isr: u8,
    status: u8,
    generation: u8,
    config_vector: u16,
    queue_vectors: Vec<u16>,
}

impl Interrupt {
    pub(super) fn new(endpoint: Arc<Endpoint>, queues: usize) -> Self {
        let queue_vectors = (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect();
        Self {
            endpoint,
            isr: Mutex::new(0),
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors,
        }
    }

    fn signal(&self, vector: u16, cause: u8) {
        // The lock orders this with the driver's reading of the status: no cause without its wire.
        let mut isr = self.isr.lock();
        if self.endpoint.msix.enabled() {
            if let Some(vector) = self.endpoint.msix.vector(vector) {
                // The event only refuses when its count is full, and then a message is under way anyhow.
                let _ = vector.event().write(1);
            }
            return;
        }
        *isr |= cause;
        self.endpoint.intx.set(true);
    }

    /// Buffers of a queue were used.
    pub(super) fn queue(&self, queue: u16) {
        let vector = self.queue_vector(queue);
        self.signal(vector, ISR_QUEUE);
    }

    /// Device configuration has changed.
    pub(super) fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if self.status() & STATUS_DRIVER_OK != 0 {
            self.signal(self.config_vector.load(Ordering::Acquire), ISR_CONFIG);
        }
    }

    /// The device can't go on before it is reset (VIRTIO 1.2, 2.1.2).
    pub(super) fn needs_reset(&self) {
        let before = self.status.fetch_or(STATUS_NEEDS_RESET, Ordering::AcqRel);
        if before & STATUS_NEEDS_RESET == 0 && before & STATUS_DRIVER_OK != 0 {
            self.signal(self.config_vector.load(Ordering::Acquire), ISR_CONFIG);
        }
    }

    /// Reads the interrupt status as a driver does, which clears it and lets go of the wire.
    pub(super) fn acknowledge(&self) -> u8 {
        let mut isr = self.isr.lock();
        self.endpoint.intx.set(false);
        std::mem::take(&mut *isr)
    }

    /// A function that uses MSI-X holds no wire up (PCI 6.8.3.3).
    pub(super) fn follow_msix(&self) {
        if self.endpoint.msix.enabled() {
            self.acknowledge();
        }
    }

    pub(super) fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    pub(super) fn add_status(&self, bits: u8) {
        self.status.fetch_or(bits, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    // A vector that doesn't exist reads back as none, by which the driver learns that it can't have it (4.1.5.1.2).
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.endpoint.msix.len() { vector } else { NO_VECTOR }
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Release);
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.queue_vectors.get(usize::from(queue)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(usize::from(queue)) {
            slot.store(self.existing(vector), Ordering::Release);
        }
    }

    /// Back to no status, no cause and no vectors. The workers have stopped.
    pub(super) fn reset(&self) {
        self.acknowledge();
        self.status.store(0, Ordering::Release);
        self.set_config_vector(NO_VECTOR);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
    }

    pub(super) fn save(&self) -> InterruptState {
        InterruptState {
            isr: *self.isr.lock(),
            status: self.status(),
            generation: self.generation(),
            config_vector: self.config_vector(),
            queue_vectors: self.queue_vectors.iter().map(|vector| vector.load(Ordering::Acquire)).collect(),
        }
    }

    pub(super) fn restore(&self, state: &InterruptState) {
        *self.isr.lock() = state.isr;
        self.status.store(state.status, Ordering::Release);
        self.generation.store(state.generation, Ordering::Release);
        self.set_config_vector(state.config_vector);
        for (queue, vector) in (0..).zip(&state.queue_vectors) {
            self.set_queue_vector(queue, *vector);
        }
    }
}

/// A worker's end of it: calls the driver about one queue.
#[derive(Clone)]
pub(super) struct Call {
    interrupt: Arc<Interrupt>,
    queue: u16,
}

impl Call {
    pub(super) fn new(interrupt: Arc<Interrupt>, queue: u16) -> Self {
        Self { interrupt, queue }
    }

    pub(super) fn signal(&self) {
        self.interrupt.queue(self.queue);
    }

    pub(super) fn needs_reset(&self) {
        self.interrupt.needs_reset();
    }
}

//! Message vectors that write down what they send.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::irq::{MsiController, MsiMessage, MsiVector};

struct Vector {
    event: EventFd,
    route: Mutex<Option<MsiMessage>>,
    log: Arc<Mutex<Vec<MsiMessage>>>,
}

impl Vector {
    // What KVM does by itself: a routed event that was signalled becomes a message.
    fn deliver(&self) {
        if let Some(message) = *self.route.lock()
            && self.event.read().is_ok()
        {
            self.log.lock().push(message);
        }
    }
}

impl MsiVector for Vector {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn route(&self, message: Option<MsiMessage>) -> io::Result<()> {
        // Signals that came before belong to the route that stood then.
        self.deliver();
        *self.route.lock() = message;
        self.deliver();
        Ok(())
    }
}

/// Gives out vectors and knows the messages that they sent.
#[derive(Clone, Default)]
pub struct Messages {
    log: Arc<Mutex<Vec<MsiMessage>>>,
    vectors: Arc<Mutex<Vec<Arc<Vector>>>>,
}

/// A recorder with nothing in it.
pub fn message_log() -> Messages {
    Messages::default()
}

impl Messages {
    /// A new vector.
    ///
    /// # Panics
    /// When the host gives no event descriptor.
    #[allow(clippy::expect_used)] // Only tests and fuzzers come here.
    pub fn vector(&self) -> Arc<dyn MsiVector> {
        let event = EventFd::new(EFD_NONBLOCK).expect("an event descriptor");
        let vector = Arc::new(Vector { event, route: Mutex::default(), log: self.log.clone() });
        self.vectors.lock().push(vector.clone());
        vector
    }

    /// The vectors given out so far.
    pub fn vectors(&self) -> Vec<Arc<dyn MsiVector>> {
        self.vectors.lock().iter().map(|vector| vector.clone() as Arc<dyn MsiVector>).collect()
    }

    /// All messages sent so far, in order per vector.
    pub fn sent(&self) -> Vec<MsiMessage> {
        for vector in self.vectors.lock().iter() {
            vector.deliver();
        }
        self.log.lock().clone()
    }
}

impl MsiController for Messages {
    fn vector(&self) -> io::Result<Arc<dyn MsiVector>> {
        Ok(Messages::vector(self))
    }
}

//! A queue's worker: one thread that holds ring, kick, call and handler, and nothing else.
//!
//! Stopping it gives these parts back, with no chain in flight: a chain is either given back to the driver or still
//! in the available ring, where the next worker finds it. An idle worker sleeps in one poll without a timeout.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::chain::Broken;
use super::device::{Need, Outcome, QueueHandler};
use super::interrupt::Call;
use super::ring::{Gathered, Ring};
use crate::thread::{Role, spawn};

/// What a worker works with.
pub(super) struct Parts {
    pub(super) queue: u16,
    pub(super) ring: Ring,
    pub(super) handler: Box<dyn QueueHandler>,
    pub(super) kick: EventFd,
    pub(super) call: Call,
    /// The driver broke the ring: it is not looked at again.
    pub(super) broken: bool,
}

struct Stop {
    wanted: AtomicBool,
    event: EventFd,
}

/// A worker that runs.
pub(super) struct Worker {
    stop: Arc<Stop>,
    thread: JoinHandle<Parts>,
}

/// What a worker waits for besides a kick.
enum Wait {
    Kick,
    Readable(Arc<OwnedFd>),
    Writable(Arc<OwnedFd>),
    /// For nothing but the pause.
    Pause,
}

impl Worker {
    /// Starts a thread. It looks at the ring first, so that no kick from before is lost.
    ///
    /// # Errors
    /// When the host has no room for a thread or event.
    pub(super) fn start(parts: Parts, number: u32) -> io::Result<Self> {
        let stop = Arc::new(Stop { wanted: AtomicBool::new(false), event: EventFd::new(EFD_NONBLOCK)? });
        let seen = stop.clone();
        let thread = spawn(Role::Queue(number), move || parts.run(&seen))?;
        Ok(Self { stop, thread })
    }

    /// Asks the thread to end with the chain that it is at.
    pub(super) fn ask_to_stop(&self) {
        self.stop.wanted.store(true, Ordering::Release);
        // The event is used once; it can't be full.
        let _ = self.stop.event.write(1);
    }

    /// Waits until it has ended. `None` when its handler panicked.
    pub(super) fn stopped(self) -> Option<Parts> {
        self.thread.join().ok()
    }
}

impl Parts {
    fn run(mut self, stop: &Stop) -> Parts {
        while !stop.wanted.load(Ordering::Acquire) {
            let wait = if self.broken { Wait::Kick } else { self.serve_or_break(stop) };
            if !stop.wanted.load(Ordering::Acquire) {
                self.wait(stop, &wait);
            }
        }
        self
    }

    fn serve_or_break(&mut self, stop: &Stop) -> Wait {
        self.serve(stop).unwrap_or_else(|fault| {
            log::warn!("queue {}: {fault}; the device needs a reset", self.queue);
            self.broken = true;
            self.call.needs_reset();
            Wait::Kick
        })
    }

    // Serves all chains that there are, until asked to stop or one can't be finished.
    fn serve(&mut self, stop: &Stop) -> Result<Wait, Broken> {
        loop {
            self.ring.hush()?;
            let mut short = 0;
            while !stop.wanted.load(Ordering::Acquire) {
                let gathered = match self.handler.need() {
                    Need::Chain => self.ring.next()?.map_or(Gathered::Short(0), Gathered::Chain),
                    Need::Room(room) => self.ring.gather(room)?,
                    Need::Input(fd) => return Ok(Wait::Readable(fd)),
                };
                let mut chain = match gathered {
                    Gathered::Chain(chain) => chain,
                    Gathered::Short(count) => {
                        short = count;
                        break;
                    }
                };
                let outcome = self.handler.handle(&mut chain)?;
                let heads = chain.heads;
                let wait = match outcome {
                    Outcome::Done(written) => {
                        if self.ring.complete(&heads, written)? {
                            self.call.signal();
                        }
                        continue;
                    }
                    Outcome::Kept => {
                        self.ring.put_back(heads.count());
                        continue;
                    }
                    Outcome::Readable(fd) => Wait::Readable(fd),
                    Outcome::Writable(fd) => Wait::Writable(fd),
                    Outcome::Ended => Wait::Kick,
                    Outcome::Stopped => Wait::Pause,
                };
                self.ring.put_back(heads.count());
                return Ok(wait);
            }
            // The driver kicks for what comes behind the chains that were looked at, so they are put back after this.
            let rests = stop.wanted.load(Ordering::Acquire) || !self.ring.listen()?;
            self.ring.put_back(short);
            if rests {
                return Ok(Wait::Kick);
            }
        }
    }

    fn wait(&self, stop: &Stop, wait: &Wait) {
        let mut fds = vec![PollFd::from_borrowed_fd(borrow(&stop.event), PollFlags::IN)];
        match wait {
            Wait::Kick | Wait::Pause => {}
            Wait::Readable(fd) => fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
            Wait::Writable(fd) => fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)),
        }
        if !matches!(wait, Wait::Pause) {
            fds.push(PollFd::from_borrowed_fd(borrow(&self.kick), PollFlags::IN));
        }
        // A failed poll (a signal) is as good as a wake-up: whoever wakes looks at everything.
        let _ = poll(&mut fds, None);
        let _ = self.kick.read();
    }
}

#[allow(unsafe_code)]
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the event's own and stays open for as long as the event is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

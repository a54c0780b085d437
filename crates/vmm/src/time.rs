//! Time as devices see it: a steady clock, the wall clock, and alarms.
//!
//! Devices compute their counters from the clock when they are read. An alarm is set only while the guest has asked for
//! an interrupt, so an idle guest costs no wake-up: the thread behind the alarms sleeps until one is due, and is
//! only made when the first is set.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use crate::thread::{Role, spawn};

/// Somebody whom an alarm calls.
pub trait Wake: Send + Sync {
    /// The alarm is due. Called without any lock of the clock's held.
    fn wake(&self);
}

/// One alarm.
pub trait Alarm: Send + Sync {
    /// Calls once after this time, instead of what was set before; never on `None`.
    fn set(&self, after: Option<Duration>);
}

/// A source of time.
pub trait Time: Send + Sync {
    /// Time since an arbitrary moment; never goes back.
    fn now(&self) -> Duration;
    /// Time since 1970 in UTC.
    fn wall(&self) -> Duration;
    /// A new alarm for somebody, who may go away before it.
    fn alarm(&self, who: Weak<dyn Wake>) -> Box<dyn Alarm>;
}

/// The host's clocks.
pub struct HostTime {
    start: Instant,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Alarms {
    next_id: u64,
    due: BTreeMap<(Instant, u64), Weak<dyn Wake>>,
    stop: bool,
    /// Somebody waits in the thread; false until the first alarm.
    running: bool,
}

#[derive(Default)]
struct Shared {
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

struct HostAlarm {
    id: u64,
    who: Weak<dyn Wake>,
    shared: Arc<Shared>,
    due: Mutex<Option<Instant>>,
    start_thread: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

impl HostTime {
    /// The host's clocks, from now on.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), shared: Arc::default(), thread: Mutex::default() })
    }
}

impl Time for Arc<HostTime> {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> Duration {
        // A host clock before 1970 is 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn alarm(&self, who: Weak<dyn Wake>) -> Box<dyn Alarm> {
        let mut alarms = self.shared.alarms.lock();
        alarms.next_id += 1;
        let time = Arc::downgrade(self);
        let start_thread = Box::new(move || time.upgrade().map_or(Ok(()), |time| time.start_thread()));
        let shared = self.shared.clone();
        Box::new(HostAlarm { id: alarms.next_id, who, shared, due: Mutex::new(None), start_thread })
    }
}

impl HostTime {
    fn start_thread(&self) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = self.shared.clone();
            *thread = Some(spawn(Role::Main, move || shared.serve())?);
            self.shared.alarms.lock().running = true;
        }
        Ok(())
    }
}

impl Drop for HostTime {
    fn drop(&mut self) {
        self.shared.alarms.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.get_mut().take()
            // The last holder may be a device that an alarm calls.
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the alarm thread has panicked");
        }
    }
}

impl Alarm for HostAlarm {
    fn set(&self, after: Option<Duration>) {
        let at = after.and_then(|after| Instant::now().checked_add(after));
        let mut due = self.due.lock();
        let mut alarms = self.shared.alarms.lock();
        if let Some(old) = due.take() {
            alarms.due.remove(&(old, self.id));
        }
        let Some(at) = at else { return };
        alarms.due.insert((at, self.id), self.who.clone());
        *due = Some(at);
        let running = alarms.running;
        drop(alarms);
        self.shared.changed.notify_all();
        if !running && let Err(error) = (self.start_thread)() {
            log::warn!("no thread for alarms: {error}");
        }
    }
}

impl Drop for HostAlarm {
    fn drop(&mut self) {
        self.set(None);
    }
}

impl Shared {
    fn serve(&self) {
        let mut alarms = self.alarms.lock();
        while !alarms.stop {
            let Some((at, id)) = alarms.due.keys().next().copied() else {
                self.changed.wait(&mut alarms);
                continue;
            };
            if at > Instant::now() {
                self.changed.wait_until(&mut alarms, at);
                continue;
            }
            let who = alarms.due.remove(&(at, id));
            drop(alarms);
            if let Some(who) = who.and_then(|who| who.upgrade()) {
                who.wake();
            }
            alarms = self.alarms.lock();
        }
    }
}

#[cfg(test)]
pub(crate) mod manual {
    //! Time that stands until a test moves it.
    use super::*;

    struct Entry {
        due: Option<Duration>,
        who: Weak<dyn Wake>,
    }

    #[derive(Default)]
    struct State {
        now: Duration,
        wall: Duration,
        alarms: Vec<Entry>,
    }

    #[derive(Clone, Default)]
    pub struct ManualTime(Arc<Mutex<State>>);

    struct ManualAlarm(ManualTime, usize);

    impl ManualTime {
        pub fn at_wall(seconds: u64) -> Self {
            let time = Self::default();
            time.0.lock().wall = Duration::from_secs(seconds);
            time
        }

        /// Moves both clocks on, calling alarms at their times.
        pub fn advance(&self, by: Duration) {
            let end = self.0.lock().now + by;
            loop {
                let mut state = self.0.lock();
                let next = state.alarms.iter_mut().filter(|a| a.due.is_some_and(|d| d <= end)).min_by_key(|a| a.due);
                let (to, who) = match next {
                    Some(alarm) => (alarm.due.take().unwrap(), Some(alarm.who.clone())),
                    None => (end, None),
                };
                let step = to.saturating_sub(state.now);
                state.now += step;
                state.wall += step;
                drop(state);
                match who {
                    Some(who) => who.upgrade().into_iter().for_each(|who| who.wake()),
                    None => return,
                }
            }
        }

        /// How many alarms are set.
        pub fn alarms(&self) -> usize {
            self.0.lock().alarms.iter().filter(|a| a.due.is_some()).count()
        }
    }

    impl Time for ManualTime {
        fn now(&self) -> Duration {
            self.0.lock().now
        }
        fn wall(&self) -> Duration {
            self.0.lock().wall
        }
        fn alarm(&self, who: Weak<dyn Wake>) -> Box<dyn Alarm> {
            let mut state = self.0.lock();
            state.alarms.push(Entry { due: None, who });
            Box::new(ManualAlarm(self.clone(), state.alarms.len() - 1))
        }
    }

    impl Alarm for ManualAlarm {
        fn set(&self, after: Option<Duration>) {
            let mut state = self.0.0.lock();
            let due = after.map(|after| state.now + after);
            state.alarms[self.1].due = due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Bell(Mutex<mpsc::Sender<Instant>>);
    impl Wake for Bell {
        fn wake(&self) {
            self.0.lock().send(Instant::now()).unwrap();
        }
    }

    #[test]
    fn alarms_call_once_in_order_and_not_when_taken_back() {
        let time = HostTime::new();
        let (tell, heard) = mpsc::channel();
        let bell: Arc<dyn Wake> = Arc::new(Bell(Mutex::new(tell)));
        let (a, b) = (time.alarm(Arc::downgrade(&bell)), time.alarm(Arc::downgrade(&bell)));
        assert!(time.thread.lock().is_none(), "no alarm, no thread");
        a.set(Some(Duration::from_secs(3600)));
        b.set(Some(Duration::from_secs(3600)));
        let start = Instant::now();
        a.set(Some(Duration::from_millis(5)));
        let rung = heard.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(rung - start >= Duration::from_millis(5));
        b.set(None);
        a.set(Some(Duration::ZERO));
        heard.recv_timeout(Duration::from_secs(20)).unwrap();
        drop((a, b));
        assert!(time.shared.alarms.lock().due.is_empty());
    }
}

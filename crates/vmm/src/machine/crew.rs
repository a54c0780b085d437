//! The processors' threads, and how they are made to stand and run.
//!
//! A processor inside the guest is got out by two things: KVM's "immediate exit" flag, which ends the next entry at
//! once, and a signal, which ends the one that is going on. Either alone would miss the moment between the last look at
//! the orders and the entry. After an exit has been answered the guest is always entered once more before the thread
//! stands: only then has KVM finished the instruction, and the state can be saved.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Once, OnceLock};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuExit;
use parking_lot::{Condvar, Mutex};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::exits::{Exits, Verdict};
use super::{Board, Error, Event, Fault};
use crate::arch::x86_64::KvmError;
use crate::arch::x86_64::vcpu::{Kick, Vcpu};
use crate::power::{Power, ResetCause};
use crate::thread::{Role, spawn};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orders {
    Stand,
    Run,
    Leave,
}

struct Watch {
    orders: Orders,
    /// Threads that wait for orders.
    standing: usize,
    /// An event was told that the owner hasn't answered yet.
    told: bool,
}

/// A processor and its thread.
struct Member {
    vcpu: Mutex<Vcpu>,
    kick: Kick,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// All processors.
pub(super) struct Crew {
    watch: Mutex<Watch>,
    changed: Condvar,
    members: OnceLock<Vec<Member>>,
    report: Sender<Event>,
}

impl Crew {
    pub fn new(report: Sender<Event>) -> Arc<Self> {
        let watch = Watch { orders: Orders::Stand, standing: 0, told: false };
        Arc::new(Self { watch: Mutex::new(watch), changed: Condvar::new(), members: OnceLock::new(), report })
    }

    /// Takes the processors over and makes their threads, which stand.
    pub fn hire(self: &Arc<Self>, vcpus: Vec<Vcpu>, board: &Board) -> Result<(), Error> {
        install_handler()?;
        let exits = Arc::new(Exits::new(board, vcpus.first())?);
        let members = vcpus
            .into_iter()
            .map(|vcpu| {
                let kick = Kick::new(&board.vm, &vcpu)?;
                Ok(Member { vcpu: Mutex::new(vcpu), kick, thread: Mutex::new(None) })
            })
            .collect::<Result<Vec<_>, KvmError>>()?;
        for (number, member) in (0u32..).zip(self.members.get_or_init(|| members)) {
            let (crew, exits) = (self.clone(), exits.clone());
            match spawn(Role::Vcpu(number), move || crew.work(number as usize, &exits)) {
                Ok(thread) => *member.thread.lock() = Some(thread),
                Err(error) => {
                    self.dismiss();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn members(&self) -> &[Member] {
        self.members.get().map_or(&[], Vec::as_slice)
    }

    /// Lets all run.
    pub fn run(&self) {
        let mut watch = self.watch.lock();
        if watch.orders == Orders::Stand {
            watch.orders = Orders::Run;
            watch.told = false;
        }
        self.changed.notify_all();
    }

    /// Makes all stand, and waits until they do.
    pub fn stand(&self) {
        self.order(Orders::Stand);
        let mut watch = self.watch.lock();
        while watch.orders == Orders::Stand && watch.standing < self.members().len() {
            self.changed.wait(&mut watch);
        }
    }

    /// Ends all threads.
    pub fn dismiss(&self) {
        self.order(Orders::Leave);
        for member in self.members() {
            if let Some(thread) = member.thread.lock().take()
                && thread.join().is_err()
            {
                log::error!("a processor's thread has panicked");
            }
        }
    }

    fn order(&self, orders: Orders) {
        let mut watch = self.watch.lock();
        if watch.orders != Orders::Leave {
            watch.orders = orders;
        }
        drop(watch);
        self.changed.notify_all();
        for member in self.members() {
            member.kick.set(true);
            if let Some(thread) = &*member.thread.lock() {
                // Fails only for a thread that is gone.
                let _ = thread.kill(signal());
            }
        }
    }

    /// Calls something with a processor that stands.
    pub fn with<T>(&self, number: usize, call: impl FnOnce(&Vcpu) -> Result<T, KvmError>) -> Result<T, KvmError> {
        let absent = || KvmError { doing: "find the processor", source: io::ErrorKind::NotFound.into() };
        call(&self.members().get(number).ok_or_else(absent)?.vcpu.lock())
    }

    /// Calls something with each processor; they stand.
    pub fn each(&self, call: impl Fn(&Vcpu)) {
        self.members().iter().for_each(|member| call(&member.vcpu.lock()));
    }

    /// As [`Crew::each`], until one fails.
    pub fn try_each<T>(&self, call: impl Fn(&Vcpu) -> Result<T, KvmError>) -> Result<Vec<T>, KvmError> {
        self.members().iter().map(|member| call(&member.vcpu.lock())).collect()
    }

    // Tells the owner, once, and makes all stand. Called from the processors' threads, so it doesn't wait.
    fn tell(&self, event: Event) {
        let mut watch = self.watch.lock();
        if watch.told {
            return;
        }
        watch.told = true;
        drop(watch);
        self.order(Orders::Stand);
        // An owner who listens no more has dropped the machine, or is about to.
        let _ = self.report.send(event);
    }

    fn work(&self, number: usize, exits: &Exits) {
        let Some(member) = self.members().get(number) else { return };
        while self.wait_for_orders() {
            let mut vcpu = member.vcpu.lock();
            member.kick.set(false);
            while self.watch.lock().orders == Orders::Run {
                self.run_guest(&mut vcpu, member, exits);
            }
        }
    }

    // Gives false when it is time to leave.
    fn wait_for_orders(&self) -> bool {
        let mut watch = self.watch.lock();
        watch.standing += 1;
        self.changed.notify_all();
        while watch.orders == Orders::Stand {
            self.changed.wait(&mut watch);
        }
        watch.standing -= 1;
        watch.orders == Orders::Run
    }

    // Runs until something has made the processor look up, with no exit half done.
    fn run_guest(&self, vcpu: &mut Vcpu, member: &Member, exits: &Exits) {
        loop {
            let exit = vcpu.fd.run();
            exits.catch_up();
            let fault = match exit {
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                    exits.port(vcpu);
                    continue;
                }
                Ok(exit) => match exits.serve(exit) {
                    Verdict::Goes => continue,
                    Verdict::Reset => {
                        self.tell(Event::Reset(ResetCause::TripleFault));
                        return;
                    }
                    Verdict::Off => {
                        self.tell(Event::PoweredOff);
                        return;
                    }
                    Verdict::Broken(what) => what,
                },
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    // The flag goes down before the orders are looked at, so one that comes now isn't missed.
                    member.kick.set(false);
                    return;
                }
                Err(error) => format!("KVM_RUN failed: {error}"),
            };
            self.tell(Event::Broken(Fault { what: fault, registers: vcpu.describe() }));
            return;
        }
    }
}

impl Power for Crew {
    fn off(&self) {
        self.tell(Event::PoweredOff);
    }
    fn reset(&self, cause: ResetCause) {
        self.tell(Event::Reset(cause));
    }
}

fn signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Its arrival is all that is wanted: KVM_RUN ends with EINTR.
}

fn install_handler() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = register_signal_handler(signal(), interrupt).map_err(io::Error::from));
    result
}

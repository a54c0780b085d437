//! Guest tests: ordinary tests that ask for a machine with working KVM.
//!
//! ```text
//! #[test]
//! fn boots() {
//!     kiln_lab::needs_kvm!(60);
//!     // From here on /dev/kvm runs unmodified kernels.
//! }
//! ```
//!
//! Where the host's KVM can run an unmodified kernel the test goes straight on. Elsewhere the first guest test of a
//! test program boots a lab, in which each of them runs the same test of the same program, with its own time limit;
//! what it printed is the test's own output. `KILN_TEST_KVM=straight` or `lab` forces either.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use crate::machine::{Died, Lab};
use crate::options::Options;
use crate::protocol::{Exit, Run};

/// Where guest tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this machine's own KVM.
    Straight,
    /// In a lab.
    Lab,
}

/// Memory of the lab that guest tests share: room for one guest of 6 GiB.
const MEMORY_MIB: u32 = 9 << 10;

/// Variables that tell tests how much to do; they hold inside, too.
const TOLD: &[&str] = &["KILN_KILLS"];

/// Where guest tests of this process run.
///
/// # Errors
/// When `KILN_TEST_KVM` has an unknown value.
pub fn place() -> Result<Place> {
    if crate::inside() {
        return Ok(Place::Straight);
    }
    match std::env::var("KILN_TEST_KVM").as_deref() {
        Ok("straight") => Ok(Place::Straight),
        Ok("lab") => Ok(Place::Lab),
        Ok(other) => bail!("KILN_TEST_KVM is {other:?}: it takes straight or lab"),
        Err(_) => {
            static WORKS: OnceLock<bool> = OnceLock::new();
            let works = *WORKS.get_or_init(|| kiln_vmm::probe::run_default().is_ok_and(|trial| trial.passed()));
            Ok(if works { Place::Straight } else { Place::Lab })
        }
    }
}

/// How long each test of hostile input goes on, in seconds.
pub const HOSTILE_SECONDS: &str = "KILN_HOSTILE_SECONDS";
/// Number of the first input.
pub const HOSTILE_FIRST: &str = "KILN_HOSTILE_FIRST";

/// Gives `body` the numbers of inputs, one after another: the first `few`, or as many as come in the time that
/// [`HOSTILE_SECONDS`] says. The number of one that finds something is told.
pub fn hostile(few: u64, body: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let end = number(HOSTILE_SECONDS).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = number(HOSTILE_FIRST).unwrap_or(0);
    let goes_on = |done: u64| end.map_or(done < few, |end| Instant::now() < end);
    let mut done = 0;
    while goes_on(done) {
        let told = Told(first + done);
        body(told.0);
        std::mem::forget(told);
        done += 1;
    }
    eprintln!("{done} inputs from {first} on");
}

// Tells the number when the body doesn't come to its end.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("input {}: {HOSTILE_FIRST}={} begins with it", self.0, self.0);
    }
}

struct Shared {
    lab: Lab,
    there: Mutex<BTreeSet<PathBuf>>,
}

impl Shared {
    fn bring(&self, files: &[&str]) -> Result<()> {
        let mut there = self.there.lock();
        for file in files {
            let (here, inside) = file.split_once(':').unwrap_or((file, file));
            if there.insert(inside.into()) {
                self.lab.put(here.as_ref(), inside)?;
            }
        }
        Ok(())
    }
}

static SHARED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);

fn shared() -> Result<Arc<Shared>> {
    let mut slot = SHARED.lock();
    if let Some(shared) = slot.as_ref() {
        return Ok(shared.clone());
    }
    let program = std::env::current_exe()?;
    let name = program.to_str().context("the test program's path is no UTF-8")?.to_owned();
    let options = Options { memory_mib: MEMORY_MIB, files: vec![(program.clone(), name)], ..Options::default() };
    let shared = Arc::new(Shared { lab: Lab::start(&options)?, there: Mutex::new([program].into()) });
    *slot = Some(shared.clone());
    Ok(shared)
}

/// Runs `test` of this test program in the lab if it can't run here. Says whether it did: then the caller is done.
///
/// # Panics
/// When the test failed there, with all that it printed. This is a test's own failure.
#[allow(clippy::panic, reason = "panicking is how a test fails")]
pub fn elsewhere(place: Result<Place>, test: &str, seconds: u64, files: &[&str]) -> bool {
    match place
        .and_then(|place| if place == Place::Lab { in_lab(test, seconds, files).map(|()| true) } else { Ok(false) })
    {
        Ok(done) => done,
        Err(error) => panic!("{error:#}"),
    }
}

fn in_lab(test: &str, seconds: u64, files: &[&str]) -> Result<()> {
    let first = shared()?;
    match attempt(&first, test, seconds, files) {
        Err(error) if error.is::<Died>() => {
            eprintln!("{error:#}\nOnce more in a new lab.");
            forget(&first);
            attempt(&*shared()?, test, seconds, files)
        }
        other => other,
    }
}

// Several tests may learn of one death; only the first throws that lab away.
fn forget(dead: &Arc<Shared>) {
    let mut slot = SHARED.lock();
    if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, dead)) {
        *slot = None;
    }
}

fn attempt(shared: &Shared, test: &str, seconds: u64, files: &[&str]) -> Result<()> {
    shared.bring(files)?;
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let argv = [program.as_str(), test, "--exact", "--nocapture", "--include-ignored"].map(str::to_owned).to_vec();
    let mut env = vec![("RUST_BACKTRACE".into(), "1".into())];
    env.extend(std::env::vars().filter(|(name, _)| TOLD.contains(&name.as_str())));
    let output = shared.lab.output(Run { argv, env, limit_ms: seconds * 1000 })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let how = match output.exit {
        Exit::Status(0) if text.contains("1 passed") => {
            print!("{text}");
            return Ok(());
        }
        Exit::Status(0) => bail!("the lab ran no test {test}:\n{text}"),
        Exit::TimeLimit => format!("not done after {seconds} s"),
        Exit::Signal(n) => format!("ended by signal {n}"),
        Exit::Status(n) => format!("failed with status {n}"),
    };
    bail!("{test} in the lab: {how}\n{text}{}", String::from_utf8_lossy(&output.stderr))
}

/// Where tests run that need to be root or change the machine: in the lab, whatever the host's KVM can.
pub fn lab_only() -> Result<Place> {
    Ok(if crate::inside() { Place::Straight } else { Place::Lab })
}

/// First line of a guest test: the seconds it may take in the lab, and files it needs there beside the test program, as
/// `PATH` or `HERE:INSIDE`; programs bring their libraries.
///
/// The rest of the test runs where KVM works: here, or in the lab (then this call returns from the test).
#[macro_export]
macro_rules! needs_kvm {
    ($seconds:expr $(, $file:expr)* $(,)?) => {
        $crate::needs!($crate::testing::place(), $seconds $(, $file)*)
    };
}

/// As [`needs_kvm!`], for a test that must be root or changes the machine it runs on: always in the lab.
#[macro_export]
macro_rules! needs_lab {
    ($seconds:expr $(, $file:expr)* $(,)?) => {
        $crate::needs!($crate::testing::lab_only(), $seconds $(, $file)*)
    };
}

/// What [`needs_kvm!`] and [`needs_lab!`] share.
#[doc(hidden)]
#[macro_export]
macro_rules! needs {
    ($place:expr, $seconds:expr $(, $file:expr)*) => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        // libtest names tests without the crate.
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        if $crate::testing::elsewhere($place, name, $seconds, &[$($file),*]) {
            return;
        }
    }};
}

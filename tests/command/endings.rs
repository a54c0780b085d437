//! What becomes of machines when the command that made them, or their own process, ends early.

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;

use super::guest::{self, SHELL};
use super::home::{Home, KILN, install};
use super::server::{fine, serve_requests};
use super::talk::{Talk, hang_up};

/// A server that keeps the kernel back until it is told to go on, and tells when it was asked for it.
struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    reached: bool,
    open: bool,
}

impl Gate {
    fn closed() -> (Self, String) {
        let gate = Self(Arc::default());
        let inner = gate.0.clone();
        let (kernel, initrd) = (std::fs::read(guest::kernel()).unwrap(), guest::initrd(SHELL));
        let url = serve_requests(move |method, path| match path {
            "/debian-installer/amd64/linux" => {
                let mut state = inner.0.lock();
                state.reached |= method == "GET";
                inner.1.notify_all();
                while method == "GET" && !state.open {
                    inner.1.wait(&mut state);
                }
                Some(fine(&kernel))
            }
            "/debian-installer/amd64/initrd.gz" => Some(fine(&initrd)),
            _ => None,
        });
        (gate, url)
    }

    /// Waits until somebody waits for the kernel.
    fn is_reached(&self) {
        let mut state = self.0.0.lock();
        while !state.reached {
            let late = self.0.1.wait_for(&mut state, super::talk::PATIENCE).timed_out();
            assert!(!late, "nobody asked for the kernel");
        }
    }

    fn opens(&self) {
        self.0.0.lock().open = true;
        self.0.1.notify_all();
    }
}

#[test]
fn an_interrupt_before_the_guest_runs_leaves_nothing() {
    kiln_lab::needs_kvm!(200, KILN);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (gate, url) = Gate::closed();
        let home = Home::new();
        let first = Talk::with(home.command(&install(&["--location", &url, "--disk", "size=1"])));
        gate.is_reached();
        // A second one of that name is told at once.
        let told = home.kiln(&install(&["--location", &url])).ends(4);
        told.says(&["\"web\" is being installed right now", "> Wait for that, or take another name"]);
        first.signal(signal);
        let (code, said) = first.ends();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("interrupted before the guest ran; nothing is left of it"), "{said}");
        assert!(home.files().is_empty(), "{signal:?}: {:?}", home.files());
        assert!(home.machines().is_empty());
        gate.opens();
    }
}

#[test]
fn a_killed_installer_is_in_nobodys_way() {
    kiln_lab::needs_kvm!(200, KILN);
    let (gate, url) = Gate::closed();
    let home = Home::new();
    let first = Talk::with(home.command(&install(&["--location", &url, "--disk", "size=1"])));
    gate.is_reached();
    first.signal(Signal::KILL);
    assert_eq!(first.ends().0, None);
    assert!(home.machines().is_empty());
    gate.opens();
    home.kiln(&install(&["--location", &url, "--disk", "size=1", "--noautoconsole"])).ends(0);
    assert_eq!(home.machines(), [("web".into(), "running".into())]);
    home.kiln(&["destroy", "web"]).ends(0);
    home.kiln(&["undefine", "web"]).ends(0);
    assert_eq!(home.files(), [home.store("data/images/web.qcow2")].into(), "disks are kept");
}

#[test]
fn an_installer_killed_at_any_moment_leaves_a_store_that_works() {
    kiln_lab::needs_kvm!(300, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let line = install(&["--boot", &boot, "--disk", "size=1", "--noautoconsole"]);
    let begun = std::time::Instant::now();
    home.kiln(&line).ends(0);
    let whole = begun.elapsed();
    clean(&home);
    const MOMENTS: u32 = 8;
    for moment in 0..MOMENTS {
        let installer = Talk::with(home.command(&line));
        // The moments are spread over what a whole one takes; where each falls doesn't matter.
        std::thread::sleep(whole * moment / MOMENTS);
        installer.signal(Signal::KILL);
        installer.ends();
        let machines = home.machines();
        assert!(machines.len() <= 1 && machines.iter().all(|(name, _)| name == "web"), "{machines:?}");
        clean(&home);
        assert!(home.machines().is_empty());
    }
    // No lock is left to remove.
    home.kiln(&line).ends(0);
    assert_eq!(home.machines(), [("web".into(), "running".into())]);
}

fn clean(home: &Home) {
    for (name, state) in home.machines() {
        if state != "shut off" {
            home.kiln(&["destroy", &name]).ends(0);
        }
        // One that was killed between the machine's start and its definition can't be: the definition comes first.
        home.kiln(&["undefine", &name]).ends(0);
    }
}

/// The process of a running machine.
pub fn process_of(home: &Home, name: &str) -> Pid {
    let info = home.kiln(&["dominfo", name, "--json"]).ends(0);
    let info: serde_json::Value = serde_json::from_str(&info.out).unwrap();
    Pid::from_raw(i32::try_from(info["running"]["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_killed_machine_is_shut_off_and_starts_again() {
    kiln_lab::needs_kvm!(200, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let installer = Talk::with(home.command(&install(&["--boot", &boot, "--disk", "size=1", "--autoconsole", "text"])));
    installer.sees("GUEST READY");
    kill_process(process_of(&home, "web"), Signal::KILL).unwrap();
    let (code, said) = installer.ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\"web\" has failed") && said.contains("1. its process was ended from outside"), "{said}");
    assert!(said.contains("> Its log: "), "{said}");
    assert_eq!(home.machines(), [("web".into(), "shut off".into())]);
    home.kiln(&["domstate", "web", "--reason"]).ends(0).says(&["shut off (crashed)"]);
    home.kiln(&["shutdown", "web"]).ends(1).says(&["\"web\" is not running", "> kiln start web"]);
    for _ in 0..3 {
        home.kiln(&["start", "web"]).ends(0);
        kill_process(process_of(&home, "web"), Signal::KILL).unwrap();
        while home.machines() != [("web".into(), "shut off".into())] {}
    }
    home.kiln(&["undefine", "web"]).ends(0);
}

#[test]
fn a_machine_outlives_its_installers_interrupts_and_terminal() {
    kiln_lab::needs_kvm!(300, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let on_terminal = |name: &str| {
        let words = install(&["--name", name, "--boot", &boot, "--autoconsole", "text"]);
        let talk = Talk::on_terminal(&home.command(&words));
        talk.sees("Ctrl-C leaves it running");
        talk.sees("GUEST READY");
        talk
    };
    // Ctrl-C on its terminal, which is not raw: the installer only shows.
    let mut typed = on_terminal("typed");
    typed.types("\x03");
    let (code, said) = typed.ends();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("\"typed\" goes on.") && said.contains("kiln console typed"), "{said}");
    assert!(said.contains("kiln destroy typed") && said.contains("kiln undefine typed"), "{said}");
    // Its window is closed.
    let gone = on_terminal("gone");
    assert_eq!(hang_up(gone), Some(130));
    // Nobody reads what it shows any more.
    let mut unread = home.command(&install(&["--name", "unread", "--boot", &boot, "--autoconsole", "text"]));
    unread.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = unread.spawn().unwrap();
    drop(child.stdout.take());
    child.wait().unwrap();
    // The wait ends.
    let told = home.kiln(&install(&["--name", "late", "--boot", &boot, "--wait", "0.1"])).ends(5);
    told.says(&["\"late\" goes on.", "\"late\" has not ended after 0.1 min"]);
    let names = ["gone", "late", "typed", "unread"];
    let mut machines = home.machines();
    machines.sort();
    assert_eq!(machines, names.map(|name| (name.to_owned(), "running".to_owned())));
    for name in names {
        let mut console = Talk::on_terminal(&home.command(&["console", name]));
        console.sees("Ctrl-] leaves.");
        // Before its shell is there a guest may lose what is typed.
        console.sees("GUEST READY");
        console.types("echo al''ive\r");
        console.sees("alive");
        console.types("\x1d");
        let (code, said) = console.ends();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("Left; \"{name}\" goes on.")), "{said}");
    }
}

//! Where kiln runs: on this machine where its KVM works, else in a lab whose VNC ports lead here. Viewers run here.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_lab::options::Options;
use kiln_lab::site::Site;
use kiln_lab::testing::{Place, place};
use parking_lot::{Condvar, Mutex};

use crate::guest;

const KILN: &str = env!("CARGO_BIN_EXE_kiln");

/// How long anything may take, wherever it runs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Screens that one lab can show.
const SCREENS: u16 = 8;

/// First VNC and WebSocket port inside the lab.
const FIRST_PORTS: Ports = Ports { vnc: 5900, websocket: 5700 };

/// Where a machine's screen is to be had.
#[derive(Clone, Copy)]
pub struct Ports {
    pub vnc: u16,
    pub websocket: u16,
}

pub struct Stage {
    site: Site,
    /// Of the lab, and how many of them have been given out.
    ports: Vec<Ports>,
    next: Mutex<u16>,
}

// Free ones, found all at once, so that they differ.
fn free_ports(count: u16) -> Vec<Ports> {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held: Vec<_> = (0..count).map(|_| [free(), free()]).collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    held.iter().map(|[vnc, websocket]| Ports { vnc: port(vnc), websocket: port(websocket) }).collect()
}

impl Stage {
    /// Where guests can run: here, or in the lab.
    pub fn any() -> Arc<Self> {
        static HERE: OnceLock<Arc<Stage>> = OnceLock::new();
        match place().unwrap() {
            Place::Straight => HERE
                .get_or_init(|| {
                    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
                    let site = Site::here(Path::new(KILN), home, "KILN_HOME");
                    Arc::new(Stage { site, ports: vec![], next: Mutex::new(0) })
                })
                .clone(),
            Place::Lab => Self::lab(),
        }
    }

    /// The lab, for tests that look into the kernel's debug files as root.
    pub fn lab() -> Arc<Self> {
        static LAB: OnceLock<Arc<Stage>> = OnceLock::new();
        LAB.get_or_init(|| {
            let ports = free_ports(SCREENS);
            let vnc = ports.iter().map(|here| here.vnc).zip(FIRST_PORTS.vnc..);
            let websocket = ports.iter().map(|here| here.websocket).zip(FIRST_PORTS.websocket..);
            let files = guest::files();
            let options = Options {
                forwards: vnc.chain(websocket).collect(),
                files: vec![(files.kernel.clone(), "/kernel".into()), (files.initrd.clone(), "/initrd".into())],
                ..Options::default()
            };
            let site = Site::lab(Path::new(KILN), options, "/kiln", "KILN_HOME").unwrap();
            Arc::new(Stage { site, ports, next: Mutex::new(0) })
        })
        .clone()
    }

    /// Runs a shell line and gives what it printed; it must succeed.
    pub fn sh(&self, line: &str) -> String {
        self.site.sh(line)
    }

    // Kernel, initrd, and where viewers come to: address and ports there, ports here.
    fn place_of(&self) -> (String, String, String, Ports, Ports) {
        match &self.site {
            Site::Here { .. } => {
                let (files, ports) = (guest::files(), free_ports(1)[0]);
                let [kernel, initrd] = [&files.kernel, &files.initrd].map(|path| path.display().to_string());
                (kernel, initrd, "127.0.0.1".into(), ports, ports)
            }
            Site::Lab { .. } => {
                let mut next = self.next.lock();
                let number = *next;
                *next += 1;
                let here = self.ports[usize::from(number)];
                let there = Ports { vnc: FIRST_PORTS.vnc + number, websocket: FIRST_PORTS.websocket + number };
                ("/kernel".into(), "/initrd".into(), "10.0.2.15".into(), there, here)
            }
        }
    }
}

/// What a guest has said on its serial port, and how its installation ended.
#[derive(Default)]
struct Heard {
    text: String,
    ended: Option<i32>,
}

/// A machine that `kiln install` made and whose serial port is followed. Destroyed when dropped.
pub struct Machine {
    pub stage: Arc<Stage>,
    pub name: &'static str,
    /// VNC on this machine's 127.0.0.1.
    pub port: u16,
    /// The WebSocket there.
    pub websocket: u16,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    follower: Option<JoinHandle<()>>,
}

impl Machine {
    /// Installs it and waits until its guest has drawn.
    pub fn install(stage: Arc<Stage>, name: &'static str, keymap: &str) -> Self {
        let (kernel, initrd, listen, there, here) = stage.place_of();
        let Ports { vnc, websocket } = there;
        let line = format!(
            "kiln install --name {name} --memory 256 --import --disk none --network none --autoconsole text \
             --graphics vnc,listen={listen},port={vnc},websocket={websocket},keymap={keymap} \
             --boot 'kernel={kernel},initrd={initrd},kernel_args=console=ttyS0 quiet vt.global_cursor_default=0'"
        );
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let (told, there) = (heard.clone(), stage.clone());
        let follower = std::thread::spawn(move || {
            let status = there.site.run(&line, &mut |bytes| {
                told.0.lock().text.push_str(&String::from_utf8_lossy(bytes));
                told.1.notify_all();
            });
            told.0.lock().ended = Some(status.unwrap());
            told.1.notify_all();
        });
        let machine = Self { stage, name, port: here.vnc, websocket: here.websocket, heard, follower: Some(follower) };
        machine.sees("GUEST READY");
        machine
    }

    /// Waits until something can be found in what the guest has said, and gives it.
    pub fn waits<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.heard.0.lock();
        loop {
            if let Some(found) = find(&heard.text) {
                return found;
            }
            let late = self.heard.1.wait_until(&mut heard, deadline).timed_out();
            assert!(!late && heard.ended.is_none(), "no {what}; {:?}\n{}", heard.ended, heard.text);
        }
    }

    /// Waits for a line that begins so, and gives its rest.
    pub fn sees(&self, start: &str) -> String {
        self.waits(start, |text| {
            let at = text.find(start)? + start.len();
            let end = at + text[at..].find('\n')?;
            Some(text[at..end].trim().to_owned())
        })
    }

    /// `kiln screenshot`'s file.
    pub fn screenshot(&self) -> Vec<u8> {
        let path = self.stage.site.path(&format!("{}.png", self.name));
        self.stage.sh(&format!("kiln screenshot {} {path}", self.name));
        self.stage.site.fetch(&path).unwrap()
    }

    /// What each of its process's threads is at, and its connections.
    pub fn threads(&self) -> String {
        let pid = self.pid();
        self.stage.sh(&format!(
            "for t in /proc/{pid}/task/*; do echo $(cat $t/comm $t/syscall); grep -E 'State|ctxt' $t/status | tr '\\n' ' '; done; \
             cat /proc/{pid}/net/tcp"
        ))
    }

    /// Process of the machine, there.
    pub fn pid(&self) -> u32 {
        let record = self.stage.sh(&format!("cat $KILN_HOME/run/machines/{}/running.json", self.name));
        serde_json::from_str::<serde_json::Value>(&record).unwrap()["pid"].as_u64().unwrap() as u32
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let destroy = format!("kiln destroy {0} && kiln undefine {0}", self.name);
        if std::thread::panicking() {
            let _ = self.stage.site.run(&destroy, &mut |_| ());
            return;
        }
        self.stage.sh(&destroy);
        self.follower.take().unwrap().join().unwrap();
    }
}

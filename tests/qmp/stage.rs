//! Where kiln runs: on this machine where its KVM works, else in a lab whose port leads to the machine's socket.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_lab::options::Options;
use kiln_lab::site::Site;
use kiln_lab::testing::{Place, place};
use parking_lot::{Condvar, Mutex};

use crate::guest;

const KILN: &str = env!("CARGO_BIN_EXE_kiln");
const SOCAT: &str = "/usr/bin/socat";

/// How long anything may take, wherever it runs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The port inside the lab that leads to the socket.
const PORT: u16 = 4444;

/// Where kiln runs, in a folder that is the home of its store.
pub struct Stage {
    pub site: Site,
    /// What leads to the lab's port.
    port: u16,
}

impl Stage {
    pub fn new() -> Arc<Self> {
        Arc::new(match place().unwrap() {
            Place::Straight => {
                let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
                Stage { site: Site::here(Path::new(KILN), home, "KILN_HOME"), port: 0 }
            }
            Place::Lab => {
                let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let port = held.local_addr().unwrap().port();
                drop(held);
                let files = guest::files();
                let options = Options {
                    forwards: vec![(port, PORT)],
                    files: vec![
                        (SOCAT.into(), "/bin/socat".into()),
                        (files.kernel.clone(), "/k/kernel".into()),
                        (files.initrd.clone(), "/k/initrd".into()),
                    ],
                    ..Options::default()
                };
                Stage { site: Site::lab(Path::new(KILN), options, "/k", "KILN_HOME").unwrap(), port }
            }
        })
    }

    /// Installs a machine of two processors, with a screen and disk.qcow2.
    pub fn install(self: &Arc<Self>, name: &'static str) -> Machine {
        let (kernel, initrd) = match &self.site {
            Site::Here { .. } => {
                let files = guest::files();
                (files.kernel.display().to_string(), files.initrd.display().to_string())
            }
            Site::Lab { .. } => ("/k/kernel".into(), "/k/initrd".into()),
        };
        let line = format!(
            "kiln install --name {name} --memory 256 --vcpus 2 --import --disk disk.qcow2 --network none \
             --autoconsole text --graphics vnc \
             --boot 'kernel={kernel},initrd={initrd},kernel_args=console=ttyS0 quiet vt.global_cursor_default=0'"
        );
        let heard = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (told, there) = (heard.clone(), self.clone());
        std::thread::spawn(move || {
            there.site.run(&line, &mut |bytes| {
                told.0.lock().push_str(&String::from_utf8_lossy(bytes));
                told.1.notify_all();
            })
        });
        let machine = Machine { stage: self.clone(), name, heard };
        machine.sees_times("GUEST READY", 1);
        machine
    }
}

/// A machine whose serial port is followed. Destroyed when dropped.
pub struct Machine {
    stage: Arc<Stage>,
    name: &'static str,
    heard: Arc<(Mutex<String>, Condvar)>,
}

impl Machine {
    /// What the guest has said on its serial port.
    pub fn heard(&self) -> String {
        self.heard.0.lock().clone()
    }

    /// Waits until the guest has said a text so often.
    pub fn sees_times(&self, text: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.heard.0.lock();
        while heard.matches(text).count() < times {
            let late = self.heard.1.wait_until(&mut heard, deadline).timed_out();
            assert!(!late, "{text:?} is not said {times} times:\n{heard}");
        }
    }

    /// Where its control socket can be reached from here.
    pub fn endpoint(&self) -> String {
        let info = self.stage.site.sh(&format!("kiln dominfo {} --json", self.name));
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let path = info["running"]["control"].as_str().unwrap().to_owned();
        match &self.stage.site {
            Site::Here { .. } => format!("unix:{path}"),
            Site::Lab { .. } => {
                let relay = format!("socat TCP-LISTEN:{PORT},fork,reuseaddr UNIX-CONNECT:{path}");
                let there = self.stage.clone();
                // What a run has started ends with it, so this one goes on as long as the lab.
                std::thread::spawn(move || there.site.run(&relay, &mut |_| ()));
                self.stage.site.sh(&format!("until grep -q ':{PORT:04X} ' /proc/net/tcp; do sleep 0.05; done"));
                format!("tcp:{}", self.stage.port)
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.stage.site.run(&format!("kiln destroy {0}; kiln undefine {0}", self.name), &mut |_| ());
    }
}

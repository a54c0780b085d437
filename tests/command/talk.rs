//! A kiln that goes on while the test watches it, types and sends signals.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// How long something may take, wherever the test runs.
pub const PATIENCE: Duration = Duration::from_secs(100);

#[derive(Default)]
struct Heard {
    text: String,
    /// Where the next wait begins to look.
    seen: usize,
    ended: bool,
}

type Ear = Arc<(Mutex<Heard>, Condvar)>;

/// A running command.
pub struct Talk {
    child: Child,
    heard: Ear,
    /// The test's end of its terminal, if it has one.
    terminal: Option<File>,
    /// Held as long as the listener is to listen.
    stop: Option<OwnedFd>,
}

impl Talk {
    /// Runs it with its output in one pipe.
    pub fn with(mut command: Command) -> Self {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        command.stdout(write.try_clone().unwrap()).stderr(write);
        let child = command.spawn().unwrap();
        drop(command);
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        Self { child, heard: listen(read.into(), stopped), terminal: None, stop: Some(stop) }
    }

    /// Runs it on a terminal of its own, which it controls.
    pub fn on_terminal(command: &Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let path = ptsname(&ours, Vec::new()).unwrap();
        let open =
            || -> OwnedFd { File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap().into() };
        // setsid makes it the leader of a session whose terminal is this one.
        let mut leader = Command::new("setsid");
        leader.arg("-c").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        let child = leader.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        drop(leader);
        let ours = File::from(ours);
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let heard = listen(ours.try_clone().unwrap(), stopped);
        Self { child, heard, terminal: Some(ours), stop: Some(stop) }
    }

    /// Waits for a text after the last one; gives what came before it.
    #[track_caller]
    pub fn sees(&self, text: &str) -> String {
        self.sees_within(text, PATIENCE)
    }

    /// As [`Talk::sees`], with another patience.
    #[track_caller]
    pub fn sees_within(&self, text: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        let mut heard = self.heard.0.lock();
        loop {
            let from = heard.seen;
            if let Some(at) = heard.text[from..].find(text) {
                heard.seen = from + at + text.len();
                return heard.text[from..from + at].to_owned();
            }
            assert!(!heard.ended, "it ended without {text:?}:\n{}", heard.text);
            let late = self.heard.1.wait_until(&mut heard, deadline).timed_out();
            assert!(!late, "no {text:?} in:\n{}", heard.text);
        }
    }

    /// Types on its terminal.
    pub fn types(&mut self, keys: &str) {
        self.terminal.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end; gives its exit status (`None`: ended by a signal) and all that it said.
    #[track_caller]
    pub fn ends(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on:\n{}", self.heard.0.lock().text);
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut heard = self.heard.0.lock();
        while !heard.ended {
            assert!(!self.heard.1.wait_until(&mut heard, deadline).timed_out(), "its output goes on:\n{}", heard.text);
        }
        (status.code(), heard.text.clone())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // A test that fails leaves no process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets a running command's terminal go, as closing its window does; gives its exit status.
#[track_caller]
pub fn hang_up(mut talk: Talk) -> Option<i32> {
    // The listener lets go of our end when nobody can tell it to stop any more; then nobody has it.
    drop(talk.terminal.take());
    drop(talk.stop.take());
    talk.ends().0
}

fn listen(mut from: File, stop: OwnedFd) -> Ear {
    let heard = Ear::default();
    let ear = heard.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        loop {
            let mut sources = [PollFd::new(&from, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
            poll(&mut sources, None).unwrap();
            if !sources[1].revents().is_empty() {
                break;
            }
            // A terminal whose other side is gone answers with an error.
            let Ok(n @ 1..) = from.read(&mut bytes) else { break };
            ear.0.lock().text.push_str(&String::from_utf8_lossy(&bytes[..n]));
            ear.1.notify_all();
        }
        drop(from);
        ear.0.lock().ended = true;
        ear.1.notify_all();
    });
    heard
}

//! Machines that run: found by their locks, asked over their sockets.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::{Folders, lock};
use crate::failure::{Failure, Status};
use crate::runner::start::{ENDING, LOCK, RECORD, Record};
use crate::runner::{Ending, handover::MOST_DESCRIPTORS};

/// Name of the document of a machine's run, in its folder.
pub const DOCUMENT: &str = "domain.xml";

/// How long a machine's process may take to answer, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a process that doesn't answer any more may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// A machine that runs.
pub struct Running {
    name: String,
    folders: Folders,
    /// What was written down when it started.
    pub record: Record,
}

/// Whether a machine runs. What can't be looked at doesn't.
pub fn is_running(folders: &Folders, name: &str) -> bool {
    lock::is_locked(&folders.running(name).join(LOCK)).unwrap_or(false)
}

/// What was written down of a running machine, if it was yet.
pub fn record(folders: &Folders, name: &str) -> Option<Record> {
    serde_json::from_slice(&fs::read(folders.running(name).join(RECORD)).ok()?).ok()
}

/// How a machine's last run ended, if that was written down.
pub fn last_ending(folders: &Folders, name: &str) -> Option<Ending> {
    let text = fs::read(folders.logs(name).join(ENDING)).ok()?;
    if text.is_empty() {
        // Made at the start, written at the end: this one didn't come to that.
        return Some(Ending { reason: "crashed".into(), detail: Some("its process was ended from outside".into()) });
    }
    serde_json::from_slice(&text).ok()
}

/// Names of all machines that run, sorted.
pub fn names(folders: &Folders) -> Vec<String> {
    let entries = fs::read_dir(folders.runtime.join("machines")).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| is_running(folders, name));
    names.sort();
    names
}

impl Running {
    /// The running machine of this name; `None` when it doesn't run.
    ///
    /// # Errors
    /// When it runs but can't be talked to.
    pub fn find(folders: &Folders, name: &str) -> Result<Option<Self>, Failure> {
        let end = Instant::now() + PATIENCE;
        // Between taking the lock and writing the record a start has some milliseconds of work to do.
        while is_running(folders, name) {
            if let Some(record) = record(folders, name)
                && UnixStream::connect(&record.control).is_ok()
            {
                return Ok(Some(Self { name: name.into(), folders: folders.clone(), record }));
            }
            if Instant::now() > end {
                return Err(Failure::new(Status::Failed, format!("{name:?} runs, but does not answer"))
                    .advise(format!("Its log: {}", folders.log(name).display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// The running machine of this name.
    ///
    /// # Errors
    /// When it doesn't run, or can't be talked to.
    pub fn get(folders: &Folders, name: &str) -> Result<Self, Failure> {
        Self::find(folders, name)?.ok_or_else(|| not_running(name))
    }

    fn trouble(&self, error: &io::Error) -> Failure {
        Failure::new(Status::Failed, format!("{:?} does not answer", self.name)).because(error)
    }

    /// Gives the machine a command and returns its answer; `file` goes with it.
    ///
    /// # Errors
    /// When it refuses, or its process is gone.
    pub fn command(&self, name: &str, file: Option<&File>) -> Result<Value, Failure> {
        self.command_with(name, json!({}), file)
    }

    /// As [`Running::command`], with arguments.
    ///
    /// # Errors
    /// As [`Running::command`].
    pub fn command_with(&self, name: &str, arguments: Value, file: Option<&File>) -> Result<Value, Failure> {
        let exchange = || -> io::Result<Value> {
            let stream = UnixStream::connect(&self.record.control)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let agree = json!({ "execute": "qmp_capabilities" });
            let line = format!("{agree}\n{}\n", json!({ "execute": name, "arguments": arguments, "id": ID }));
            send(&stream, line.as_bytes(), file)?;
            answer_of(BufReader::new(stream))
        };
        let mut answer = exchange().map_err(|e| self.trouble(&e))?;
        match answer["error"]["desc"].as_str() {
            Some(why) => Err(Failure::new(Status::Failed, format!("{:?} refuses", self.name)).why(why).in_virsh(why)),
            None => Ok(answer["return"].take()),
        }
    }

    /// `running`, `paused`, `io-error` when a disk's error has paused it, or `prelaunch` when it was reset since; `None`
    /// when it has ended meanwhile.
    ///
    /// # Errors
    /// As [`Running::command`].
    pub fn status(&self) -> Result<Option<String>, Failure> {
        match self.command("query-status", None) {
            Ok(answer) => Ok(Some(answer["status"].as_str().unwrap_or("running").to_owned())),
            // Its process is at its end, and has closed the connection already.
            Err(_) if self.wait(Some(LAST_BREATH)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Why it is paused or runs: its state and the reason in virsh's words; `None` when it has ended meanwhile.
    ///
    /// # Errors
    /// As [`Running::command`].
    pub fn state(&self) -> Result<Option<(&'static str, &'static str)>, Failure> {
        Ok(self.status()?.map(|status| match status.as_str() {
            "paused" | "prelaunch" => ("paused", "user"),
            "io-error" => ("paused", "I/O error"),
            _ => ("running", "booted"),
        }))
    }

    /// Connects to its serial console.
    ///
    /// # Errors
    /// When it has none, or its process is gone.
    pub fn console(&self) -> Result<UnixStream, Failure> {
        let path = self.record.console.as_ref().ok_or_else(|| {
            Failure::new(Status::Failed, format!("{:?} has no serial port", self.name))
                .advise("Add <serial type='pty'/> to its definition.")
        })?;
        UnixStream::connect(path).map_err(|e| self.trouble(&e))
    }

    /// Waits until the machine has ended, or the limit passes. Says whether it has.
    pub fn wait(&self, limit: Option<Duration>) -> bool {
        let end = limit.map(|limit| Instant::now() + limit);
        // Its process closes the connection when it ends; a look at the lock tells the rest.
        if let Ok(mut stream) = UnixStream::connect(&self.record.control) {
            let left = || end.map(|end| end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
            let mut bytes = [0; 512];
            while stream.set_read_timeout(left()).is_ok()
                && io::Read::read(&mut stream, &mut bytes).is_ok_and(|got| got > 0)
            {}
        }
        while is_running(&self.folders, &self.name) {
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Ends it at once, as pulling the plug does; with `force` its process is killed if it doesn't answer.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn destroy(&self, force: bool) -> Result<(), Failure> {
        let asked = self.command("quit", None);
        if self.wait(Some(PATIENCE)) {
            return Ok(());
        }
        if !force {
            return asked.and(Err(Failure::new(Status::Timeout, format!("{:?} has not ended", self.name))));
        }
        let pid = i32::try_from(self.record.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if self.wait(Some(PATIENCE)) { Ok(()) } else { asked.map(drop) }
    }
}

/// What to say of a machine that doesn't run.
pub fn not_running(name: &str) -> Failure {
    Failure::new(Status::Failed, format!("{name:?} is not running"))
        .advise(format!("kiln start {name}"))
        .in_virsh("Requested operation is not valid: domain is not running")
}

/// By which the answer is told from greeting and events.
const ID: &str = "kiln";

fn answer_of(mut from: impl BufRead) -> io::Result<Value> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let value: Value = serde_json::from_str(&line)?;
        if value["id"] == ID {
            return Ok(value);
        }
    }
}

fn send(mut stream: &UnixStream, bytes: &[u8], file: Option<&File>) -> io::Result<()> {
    let Some(file) = file else { return stream.write_all(bytes) };
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("the file can't be handed over"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

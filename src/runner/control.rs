//! The control socket: JSON commands, one a line, as QMP frames them.
//!
//! Every command is `{"execute": NAME, "id": …}`; every answer `{"return": …}` or `{"error": {"class", "desc"}}`, with
//! the command's id. The screenshot's file arrives as an open descriptor with its command.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use kiln_vmm::thread::{Role, spawn};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::process::Wake;

/// Longest line; a client that sends more is sent away.
const LONGEST: usize = 64 << 10;
/// Clients at once.
const MOST_CLIENTS: usize = 16;
/// Descriptors that may come with one read.
const MOST_DESCRIPTORS: usize = 4;

/// What commands act on.
pub(super) trait Subject: Send + Sync {
    /// `running`, `paused`, or `io-error` when a disk's error has paused it.
    fn status(&self) -> &'static str;
    /// Stops the guest where it is; it doesn't notice.
    fn pause(&self);
    /// Lets it go on.
    fn resume(&self);
    /// Presses the power button.
    fn press_power_button(&self);
    /// Writes the screen as PNG.
    fn screenshot(&self, to: OwnedFd) -> Result<(), String>;
}

/// Lets clients in until the process ends.
pub(super) fn serve(listener: UnixListener, subject: Arc<dyn Subject>, wake: Sender<Wake>) -> io::Result<()> {
    let count = Arc::new(AtomicUsize::new(0));
    let number = AtomicU32::new(0);
    spawn(Role::Control, move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if count.fetch_add(1, Ordering::AcqRel) >= MOST_CLIENTS {
                count.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (subject, wake, count) = (subject.clone(), wake.clone(), count.clone());
            let role = Role::Client(number.fetch_add(1, Ordering::Relaxed));
            let served = spawn(role, move || {
                let mut client = Client { stream, line: Vec::new(), files: VecDeque::new() };
                while let Ok(Some(command)) = client.next() {
                    if client.answer(&command, &*subject, &wake).is_err() {
                        break;
                    }
                }
                count.fetch_sub(1, Ordering::AcqRel);
            });
            if let Err(error) = served {
                log::warn!("a control client can't be served: {error}");
            }
        }
    })
    .map(drop)
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

impl Client {
    /// The next line; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.line.iter().position(|b| *b == b'\n') {
                let rest = self.line.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.line, rest)));
            }
            if self.line.len() > LONGEST {
                return Err(io::Error::other("the line is too long"));
            }
            if self.receive()? == 0 {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let got =
            recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        self.files.truncate(MOST_DESCRIPTORS);
        self.line.extend_from_slice(bytes.get(..got).unwrap_or_default());
        Ok(got)
    }

    fn answer(&mut self, line: &[u8], subject: &dyn Subject, wake: &Sender<Wake>) -> io::Result<()> {
        let outcome = match serde_json::from_slice::<Value>(line) {
            Err(error) => Err(("GenericError", format!("JSON parse error: {error}"))),
            Ok(command) => self.execute(&command, subject, wake).map(|value| (command["id"].clone(), value)),
        };
        let mut answer = match outcome {
            Ok((id, value)) => json!({ "return": value, "id": id }),
            Err((class, desc)) => json!({ "error": { "class": class, "desc": desc } }),
        };
        if answer["id"].is_null()
            && let Some(object) = answer.as_object_mut()
        {
            object.remove("id");
        }
        self.stream.write_all(format!("{answer}\r\n").as_bytes())
    }

    fn execute(
        &mut self,
        command: &Value,
        subject: &dyn Subject,
        wake: &Sender<Wake>,
    ) -> Result<Value, (&'static str, String)> {
        let Some(name) = command["execute"].as_str() else {
            return Err(("GenericError", "the member 'execute' is missing".into()));
        };
        // The main thread takes what changes the machine; it is gone only when the process is about to be.
        let tell = |what| drop(wake.send(what));
        match name {
            "query-status" => {
                let status = subject.status();
                return Ok(json!({ "status": status, "running": status == "running" }));
            }
            "stop" => subject.pause(),
            "cont" => subject.resume(),
            "system_powerdown" => subject.press_power_button(),
            "system_reset" => tell(Wake::Reset),
            "quit" => tell(Wake::Quit),
            "kiln-screenshot" => {
                let file = self.files.pop_front();
                let file = file.ok_or(("GenericError", "no file came with the command".to_owned()))?;
                subject.screenshot(file).map_err(|why| ("GenericError", why))?;
            }
            _ => return Err(("CommandNotFound", format!("The command {name} has not been found"))),
        }
        Ok(json!({}))
    }
}

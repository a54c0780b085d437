//! The control socket: QMP, so that clients of QEMU's monitor work (docs/control.md).
//!
//! A client is greeted, agrees on capabilities, then gives commands and hears of events. Each has a thread that reads and
//! one that writes. Commands whose names begin with `kiln-` are kiln's own; files for them come as open descriptors.

mod arguments;
mod commands;
mod framing;
mod input;
mod outbox;

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_vmm::thread::{Role, spawn};
use parking_lot::Mutex;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Map, Value, json};

use arguments::{Arguments, Refusal};
pub(super) use commands::{Picture, PowerOff, Subject};
use framing::{Frame, Frames};
use outbox::Outbox;

/// Clients at once; more are told so.
const MOST_CLIENTS: usize = 16;
/// Descriptors that may come with one read.
const MOST_DESCRIPTORS: usize = 4;
/// How long the last lines to a client may take to get out.
const FAREWELL: Duration = Duration::from_secs(1);

/// All clients, and what they hear of.
#[derive(Default)]
pub(super) struct Hub {
    clients: Mutex<Vec<Listener>>,
    number: AtomicU32,
}

struct Listener {
    number: u32,
    outbox: Arc<Outbox>,
    /// It has agreed on capabilities, and hears of events.
    listens: bool,
}

impl Hub {
    /// Tells all clients of an event. It takes no time of theirs.
    pub fn tell(&self, event: &str, data: Option<Value>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = json!({ "seconds": now.as_secs(), "microseconds": now.subsec_micros() });
        let mut told = json!({ "timestamp": stamp, "event": event });
        if let (Some(data), Some(told)) = (data, told.as_object_mut()) {
            told.insert("data".into(), data);
        }
        for client in self.clients.lock().iter().filter(|client| client.listens) {
            client.outbox.send(&told);
        }
    }

    /// Sees all clients off, when they have got what was sent to them.
    pub fn close(&self) {
        let clients = std::mem::take(&mut *self.clients.lock());
        for client in &clients {
            client.outbox.close();
        }
        for client in &clients {
            client.outbox.drain(FAREWELL);
        }
    }

    fn join(&self, outbox: &Arc<Outbox>) -> Option<u32> {
        let mut clients = self.clients.lock();
        if clients.len() >= MOST_CLIENTS {
            return None;
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        clients.push(Listener { number, outbox: outbox.clone(), listens: false });
        Some(number)
    }

    fn listen(&self, number: u32) {
        self.clients
            .lock()
            .iter_mut()
            .filter(|client| client.number == number)
            .for_each(|client| client.listens = true);
    }

    fn leave(&self, number: u32) {
        self.clients.lock().retain(|client| client.number != number);
    }
}

/// Lets clients in until the process ends.
pub(super) fn serve(listener: UnixListener, hub: Arc<Hub>, subject: Arc<dyn Subject>) -> io::Result<()> {
    spawn(Role::Control, move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if let Err(error) = attend(stream, &hub, &subject) {
                log::warn!("a control client can't be served: {error}");
            }
        }
    })
    .map(drop)
}

fn attend(stream: UnixStream, hub: &Arc<Hub>, subject: &Arc<dyn Subject>) -> io::Result<()> {
    let outbox = Arc::new(Outbox::default());
    let Some(number) = hub.join(&outbox) else {
        return Err(io::Error::other(format!("there are {MOST_CLIENTS} already")));
    };
    let serve = || {
        let (to, theirs) = (stream.try_clone()?, outbox.clone());
        spawn(Role::Client(number), move || theirs.write_to(&to))?;
        let (hub, subject, outbox) = (hub.clone(), subject.clone(), outbox.clone());
        spawn(Role::Client(number), move || {
            let mut client = Client { stream, files: VecDeque::new(), outbox, negotiated: false, quits: false, number };
            client.talk(&hub, &*subject);
            // What it asked for last still reaches it, unless it doesn't read.
            client.outbox.close();
            client.outbox.drain(FAREWELL);
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
            hub.leave(number);
        })
    };
    serve().map(drop).inspect_err(|_| {
        outbox.close();
        hub.leave(number);
    })
}

/// What kiln says it is: QMP's version counts, and the name that tells kiln from QEMU.
pub(super) fn version() -> Value {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let [major, minor, micro] =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")].map(number);
    json!({
        "qemu": { "major": major, "minor": minor, "micro": micro },
        "package": format!("kiln-{}", env!("CARGO_PKG_VERSION")),
    })
}

struct Client {
    stream: UnixStream,
    files: VecDeque<OwnedFd>,
    outbox: Arc<Outbox>,
    negotiated: bool,
    /// The machine was told to end.
    quits: bool,
    number: u32,
}

impl Client {
    fn talk(&mut self, hub: &Hub, subject: &dyn Subject) {
        self.outbox.send(&json!({ "QMP": { "version": version(), "capabilities": [] } }));
        let mut frames = Frames::new();
        let mut bytes = [0; 4096];
        while let Ok(got @ 1..) = self.receive(&mut bytes) {
            for frame in frames.push(bytes.get(..got).unwrap_or_default()) {
                let is_last = frame == Frame::TooLong;
                let answer = self.answer(frame, hub, subject);
                let sent = self.outbox.send(&answer);
                // The answer goes out before the machine does.
                if std::mem::take(&mut self.quits) {
                    subject.quit();
                }
                if !sent || is_last {
                    return;
                }
            }
        }
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        self.files.truncate(MOST_DESCRIPTORS);
        Ok(got)
    }

    fn answer(&mut self, frame: Frame, hub: &Hub, subject: &dyn Subject) -> Value {
        let (id, outcome) = match frame {
            Frame::Value(Value::Object(mut input)) => (input.remove("id"), self.execute(input, hub, subject)),
            Frame::Value(_) => (None, Err(Refusal::generic("QMP input must be a JSON object"))),
            Frame::Garbage(what) => (None, Err(Refusal::generic(format!("JSON parse error, {what}")))),
            Frame::TooLong => {
                let what = format!("JSON parse error, more than {} bytes without an end", framing::LONGEST);
                (None, Err(Refusal::generic(what)))
            }
        };
        let mut answer = Map::new();
        match outcome {
            Ok(value) => answer.insert("return".into(), value),
            Err(Refusal { class, desc }) => answer.insert("error".into(), json!({ "class": class, "desc": desc })),
        };
        if let Some(id) = id {
            answer.insert("id".into(), id);
        }
        Value::Object(answer)
    }

    fn execute(&mut self, mut input: Map<String, Value>, hub: &Hub, subject: &dyn Subject) -> Result<Value, Refusal> {
        let command = input.remove("execute");
        let arguments = input.remove("arguments");
        if let Some(other) = input.keys().next() {
            return Err(Refusal::generic(format!("QMP input member '{other}' is unexpected")));
        }
        let Some(command) = command else { return Err(Refusal::generic("QMP input lacks member 'execute'")) };
        let Value::String(command) = command else {
            return Err(Refusal::generic("QMP input member 'execute' must be a string"));
        };
        let mut arguments = match arguments {
            None => Arguments::of(Map::new()),
            Some(Value::Object(all)) => Arguments::of(all),
            Some(_) => return Err(Refusal::generic("QMP input member 'arguments' must be an object")),
        };
        match (command.as_str(), self.negotiated) {
            ("qmp_capabilities", false) => {
                // None is offered, so none can be asked for.
                if let Some(Value::Array(wanted)) = arguments.take("enable")
                    && let Some(wanted) = wanted.first()
                {
                    let wanted = wanted.as_str().unwrap_or("?");
                    return Err(Refusal::generic(format!("Capability '{wanted}' is not available")));
                }
                arguments.finish()?;
                self.negotiated = true;
                hub.listen(self.number);
                Ok(json!({}))
            }
            ("qmp_capabilities", true) => {
                Err(Refusal::not_found("Capabilities negotiation is already complete, command ignored"))
            }
            (_, false) => Err(Refusal::not_found("Expecting capabilities negotiation with 'qmp_capabilities'")),
            ("quit", true) => {
                arguments.finish()?;
                self.quits = true;
                Ok(json!({}))
            }
            (command, true) => commands::execute(command, arguments, &mut self.files, subject),
        }
    }
}

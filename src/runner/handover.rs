//! From the process that starts a machine to the one that runs it: an order and opened descriptors, over a socket pair.
//!
//! The order is JSON behind its length; the descriptors travel with the first byte (unix(7), `SCM_RIGHTS`), those that
//! don't fit into one message with bytes behind the order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::start::{Begin, Record};
use crate::failure::{Failure, Status};

/// Most descriptors in one message (the kernel's SCM_MAX_FD).
pub const MOST_DESCRIPTORS: usize = 253;
/// Longest message, for a reader that trusts nobody.
const LONGEST: u32 = 8 << 20;

/// What the machine's process is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The domain document to run.
    pub xml: String,
    /// What is written down of the machine when it runs; its process adds itself.
    pub record: Record,
    /// The files of each disk's chain, from the top; each has a descriptor, see [`disk_label`].
    pub disks: Vec<Vec<OsString>>,
    /// Whether the guest runs at once.
    #[serde(default)]
    pub begin: Begin,
    /// What each descriptor is, in their order; sending fills it in.
    pub labels: Vec<String>,
}

/// The label of a file of a disk's chain: the disk's number in the definition, and the file's in the chain.
pub fn disk_label(disk: usize, file: usize) -> String {
    format!("disk{disk}/{file}")
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The guest runs.
    Started,
    /// It doesn't, and why.
    Failed {
        /// Exit status.
        status: u8,
        /// What.
        what: String,
        /// Why.
        causes: Vec<String>,
        /// What to do.
        advice: Vec<String>,
    },
}

/// Opened descriptors by what they are.
pub type Descriptors = BTreeMap<String, OwnedFd>;

impl From<&Failure> for Answer {
    fn from(failure: &Failure) -> Self {
        Answer::Failed {
            status: failure.status as u8,
            what: failure.what.clone(),
            causes: failure.causes.clone(),
            advice: failure.advice.clone(),
        }
    }
}

impl Answer {
    /// The failure it carries, if it does.
    ///
    /// # Errors
    /// The failure.
    pub fn into_result(self) -> Result<(), Failure> {
        match self {
            Answer::Started => Ok(()),
            Answer::Failed { status, what, causes, advice } => {
                let known = [Status::Usage, Status::NotFound, Status::Conflict, Status::NoKvm];
                let status = known.into_iter().find(|s| *s as u8 == status).unwrap_or(Status::Failed);
                Err(Failure { status, what, causes, advice, virsh: Vec::new() })
            }
        }
    }
}

/// Sends an order with its descriptors.
///
/// # Errors
/// When the other side is gone.
pub fn send_order(socket: &mut UnixStream, order: Order, descriptors: &Descriptors) -> io::Result<()> {
    let order = Order { labels: descriptors.keys().cloned().collect(), ..order };
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.values().map(AsFd::as_fd).collect();
    let (first, more) = borrowed.split_at(borrowed.len().min(MOST_DESCRIPTORS));
    send_descriptors(socket, first)?;
    send(socket, &order)?;
    more.chunks(MOST_DESCRIPTORS).try_for_each(|some| send_descriptors(socket, some))
}

// They travel with a byte of their own.
fn send_descriptors(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("the descriptors don't fit into one message"));
    }
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives an order with its descriptors, all close-on-exec.
///
/// # Errors
/// When the other side is gone or sends something else.
pub fn receive_order(socket: &mut UnixStream) -> io::Result<(Order, Descriptors)> {
    let mut received = receive_descriptors(socket)?;
    let order: Order = receive(socket)?;
    while received.len() < order.labels.len() {
        let more = receive_descriptors(socket)?;
        if more.is_empty() {
            break;
        }
        received.extend(more);
    }
    if received.len() != order.labels.len() {
        let (told, came) = (order.labels.len(), received.len());
        return Err(io::Error::other(format!("{told} descriptors were announced, {came} came")));
    }
    let descriptors = order.labels.iter().cloned().zip(received).collect();
    Ok((order, descriptors))
}

fn receive_descriptors(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes != 1 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut received = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    Ok(received)
}

/// Sends a message.
///
/// # Errors
/// When the other side is gone.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let len = u32::try_from(text.len()).ok().filter(|n| *n <= LONGEST);
    let len = len.ok_or_else(|| io::Error::other("the message is too long"))?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(&text)
}

/// Receives a message.
///
/// # Errors
/// When the other side is gone or sends something else.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    let mut text = vec![0; len as usize];
    from.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            pid: 0,
            id: 0,
            vnc: None,
            vnc_password: false,
            websocket: None,
            console: None,
            control: "/run/control".into(),
            network: Default::default(),
        }
    }

    #[test]
    fn an_order_arrives_with_its_descriptors() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let descriptors = Descriptors::from([("kernel".to_owned(), read), (disk_label(0, 0), write)]);
        let long = "x".repeat(300_000);
        let order =
            Order { xml: long, record: record(), disks: vec![vec!["/d".into()]], begin: Begin::Paused, labels: vec![] };
        let sender = std::thread::spawn(move || send_order(&mut ours, order, &descriptors));
        let (order, mut got) = receive_order(&mut theirs).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!((order.xml.len(), order.disks), (300_000, vec![vec![OsString::from("/d")]]));
        let mut write = std::fs::File::from(got.remove(&disk_label(0, 0)).unwrap());
        let mut read = std::fs::File::from(got.remove("kernel").unwrap());
        write.write_all(b"hi").unwrap();
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
    }

    #[test]
    fn more_descriptors_than_fit_into_one_message_arrive_in_their_order() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut descriptors = Descriptors::new();
        for number in 0..MOST_DESCRIPTORS * 2 + 5 {
            descriptors.insert(format!("{number:04}"), file.try_clone().unwrap().into());
        }
        let (read, write) = rustix::pipe::pipe().unwrap();
        descriptors.insert("last".into(), write);
        let order =
            Order { xml: String::new(), record: record(), disks: vec![], begin: Begin::Running, labels: vec![] };
        let sender = std::thread::spawn(move || send_order(&mut ours, order, &descriptors));
        let (_, mut got) = receive_order(&mut theirs).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(got.len(), MOST_DESCRIPTORS * 2 + 6);
        std::fs::File::from(got.remove("last").unwrap()).write_all(b"x").unwrap();
        let mut byte = [0];
        std::fs::File::from(read).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn a_failure_keeps_its_words() {
        let failure = Failure::new(Status::NoKvm, "no KVM").why("it is busy").advise("stop the other");
        let back = Answer::from(&failure).into_result().unwrap_err();
        assert_eq!((back.status, back.to_string()), (Status::NoKvm, failure.to_string()));
    }

    #[test]
    fn a_starter_that_goes_away_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(receive_order(&mut theirs).is_err());
    }
}

//! A terminal on a machine's serial port.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Failure, Status};

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// The terminal's settings from before it became raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Puts the terminal back as it was. Harmless when it was never changed.
pub fn restore_terminal() {
    if let Some(before) = BEFORE.lock().take() {
        // If even that fails there is nobody to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

struct RawTerminal;

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock() = Some(before);
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore_terminal();
    }
}

fn trouble(error: &io::Error) -> Failure {
    Failure::new(Status::Failed, "the console has failed").because(error)
}

/// Copies the port's output to standard output until the machine ends or `end` comes.
///
/// # Errors
/// When standard output or the connection fails.
pub fn follow(stream: &UnixStream, end: Option<Instant>) -> Result<(), Failure> {
    stream.set_nonblocking(true).map_err(|e| trouble(&e))?;
    copy(stream, false, end).map(drop).map_err(|e| trouble(&e))
}

/// Joins this terminal to the port until Ctrl-] or the machine's end. Says whether the user left.
///
/// # Errors
/// When terminal or connection fail.
pub fn attach(stream: &UnixStream) -> Result<bool, Failure> {
    let raw = io::stdin().is_terminal().then(RawTerminal::enter).transpose().map_err(|e| trouble(&e))?;
    let outcome = stream.set_nonblocking(true).and_then(|()| copy(stream, true, None));
    drop(raw);
    outcome.map_err(|e| trouble(&e))
}

fn copy(mut stream: &UnixStream, typing: bool, end: Option<Instant>) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut typing = typing;
    let mut bytes = [0; 16 << 10];
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let mut sources = vec![PollFd::new(stream, PollFlags::IN)];
        if typing {
            sources.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let limit = left.and_then(|left| left.try_into().ok());
        match poll(&mut sources, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = sources.iter().map(|s| !s.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            match stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    let mut out = io::stdout().lock();
                    out.write_all(&bytes[..n])?;
                    out.flush()?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        if ready.get(1) == Some(&true) {
            let n = rustix::io::read(&stdin, &mut bytes[..1024])?;
            let typed = &bytes[..n];
            let leaves = typed.iter().position(|b| *b == ESCAPE);
            send_all(stream, &typed[..leaves.unwrap_or(n)])?;
            if leaves.is_some() {
                return Ok(true);
            }
            // At the end of input (a pipe) the output still counts.
            typing = n > 0;
        }
    }
}

fn send_all(mut stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(stream, PollFlags::OUT)], None)?;
            }
            // The machine ends; the reading side will see it.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

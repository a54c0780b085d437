//! Bytes between a connection of the guest's and one of the host's, both ways, each ended when its source has.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use kiln_vmm::thread::{Role, spawn};

/// Bytes moved at once.
const STEP: usize = 64 << 10;

/// A connection of the guest's that the engine ends.
pub(super) trait Stream: Send + Sync + 'static {
    /// Waits for bytes; 0 at their end.
    fn read(&self, to: &mut [u8]) -> io::Result<usize>;
    /// Waits for room.
    fn write(&self, from: &[u8]) -> io::Result<usize>;
    /// Says that no more bytes come.
    fn finish(&self) -> io::Result<()>;
}

impl Stream for pktkit::vclient::TcpConn {
    fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        Self::read(self, to)
    }
    fn write(&self, from: &[u8]) -> io::Result<usize> {
        Self::write(self, from)
    }
    fn finish(&self) -> io::Result<()> {
        self.close()
    }
}

impl Stream for pktkit::slirp::TcpStream {
    fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        Self::read(self, to)
    }
    fn write(&self, from: &[u8]) -> io::Result<usize> {
        Self::write(self, from)
    }
    fn finish(&self) -> io::Result<()> {
        self.close()
    }
}

/// Moves bytes both ways until both have ended; this thread does one of them.
///
/// # Errors
/// When the host has no thread left.
pub(super) fn join(role: Role, guest: &Arc<dyn Stream>, host: TcpStream) -> io::Result<()> {
    let _ = host.set_nodelay(true);
    let host = Arc::new(host);
    let (other, to_guest) = (host.clone(), guest.clone());
    let inward = spawn(role, move || {
        let done = copy(|to| (&*other).read(to), |from| write_all(&*to_guest, from));
        // A connection that broke is broken for the guest too, once nobody holds its end.
        if done.is_ok() {
            let _ = to_guest.finish();
        } else {
            let _ = other.shutdown(Shutdown::Both);
        }
    })?;
    let done = copy(|to| guest.read(to), |from| (&*host).write_all(from));
    match done {
        Ok(()) => drop(host.shutdown(Shutdown::Write)),
        Err(_) => reset(&host),
    }
    let _ = inward.join();
    Ok(())
}

/// Breaks a connection off, so that the other side sees it broken and not ended.
pub(super) fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}

fn write_all(to: &dyn Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = to.write(bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

fn copy(
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut bytes = vec![0; STEP];
    loop {
        match read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => write(bytes.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

//! Bytes between a connection of the guest's and one of the host's, both ways, each ended when its source has.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

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

// The engine has two types for connections, which differ in who opens them alone.
macro_rules! streams {
    ($($name:ty),*) => {$(
        impl Stream for $name {
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
    )*};
}

streams!(pktkit::vclient::TcpConn, pktkit::slirp::TcpStream);

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
        // The guest hears the end of a broken connection as well: the engine can't break off one that is being read.
        let _ = to_guest.finish();
        if done.is_err() {
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
    // To shut it down would be a proper end to the other side. It fails only when there is no connection any more.
    let _ = rustix::net::connect_unspec(stream);
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

//! What a client is connected by.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A two-way byte stream whose halves are used by two threads.
pub trait Stream: Read + Write + Send + Sized + 'static {
    /// A second handle to the same stream.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    fn second(&self) -> io::Result<Self>;
    /// How long a read may wait from now on; `None` for ever.
    ///
    /// # Errors
    /// When the system refuses.
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()>;
    /// Ends both directions; reads and writes under way come back.
    fn close(&self);
}

impl Stream for TcpStream {
    fn second(&self) -> io::Result<Self> {
        // Small updates must not wait for more, and a peer that vanished must be noticed some time.
        self.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_keepalive(self, true)?;
        self.try_clone()
    }
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for UnixStream {
    fn second(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

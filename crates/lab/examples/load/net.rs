//! The network's stages: the card's MTU, one stream each way, connections one after another, connections at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::host::{ECHO, PIECE, SINK, SOURCE};
use super::stage;

/// Connections one after another.
const ROW: u64 = 1000;
/// Connections at once.
const CROWD: u64 = 200;
/// How long a connection may be silent before it counts as not served.
const PATIENCE: Duration = Duration::from_secs(60);

/// All stages against the server at `address`; streams last `time`.
pub fn run(address: &str, time: Duration) -> io::Result<()> {
    let address: IpAddr = address.parse().map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
    let connect = |port: u16| -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    // What the card says, if it says anything.
    stage("MTU", || {
        let text = std::fs::read_to_string("/sys/class/net/eth0/mtu")?;
        text.trim().parse().map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
    })?;
    stage("to host", || send(connect(SINK)?, time))?;
    stage("to guest", || receive(connect(SOURCE)?, time))?;
    stage("one after another", || {
        Ok((0..ROW).filter(|_| connect(ECHO).is_ok_and(|stream| served(&stream))).count() as u64)
    })?;
    stage("at once", || {
        // All are open before the first is used.
        let streams: Vec<TcpStream> = (0..CROWD).filter_map(|_| connect(ECHO).ok()).collect();
        Ok(streams.iter().filter(|stream| served(stream)).count() as u64)
    })
}

// What counts is what has arrived.
fn send(mut stream: TcpStream, time: Duration) -> io::Result<u64> {
    let buffer = vec![0xa5; PIECE];
    let begun = Instant::now();
    while begun.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_le_bytes(count))
}

fn receive(mut stream: TcpStream, time: Duration) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE];
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < time {
        count += stream.read(&mut buffer)? as u64;
    }
    Ok(count)
}

fn served(mut stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"k").and_then(|()| stream.read_exact(&mut byte)).is_ok() && byte == *b"k"
}

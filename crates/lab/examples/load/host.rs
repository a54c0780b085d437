//! The server: a port that takes and counts, one that sends, one that answers.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Takes all that comes, then says in eight bytes (little-endian) how much it was.
pub const SINK: u16 = 7001;
/// Sends until the other side closes.
pub const SOURCE: u16 = 7002;
/// Sends the first byte that comes back.
pub const ECHO: u16 = 7003;
/// Bytes of one read or write, on either side.
pub const PIECE: usize = 256 << 10;

type Serve = fn(TcpStream) -> io::Result<()>;

/// Serves at `address` until it is killed; says `SERVING` when all ports are open.
pub fn serve(address: &str) -> io::Result<()> {
    let served: [(u16, Serve); 3] = [(SINK, sink), (SOURCE, source), (ECHO, echo)];
    let mut threads = Vec::new();
    for (port, serve) in served {
        let listener = TcpListener::bind((address, port))?;
        threads.push(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks is the client's to tell.
                thread::spawn(move || drop(serve(stream)));
            }
        }));
    }
    println!("SERVING");
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut count = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&count.to_le_bytes()),
            len => count += len as u64,
        }
    }
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let buffer = vec![0x5a; PIECE];
    loop {
        stream.write_all(&buffer)?;
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

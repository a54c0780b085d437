//! The host's side: addresses and servers that a guest may or may not reach.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use sha2::{Digest, Sha256};

/// An address that stands for the outside (RFC 5737).
pub const FAR: &str = "192.0.2.1";
/// Where clouds keep their metadata.
pub const METADATA: &str = "169.254.169.254";

/// Gives this host the addresses, and a name server at the first one.
pub fn prepare() {
    for address in [FAR, METADATA] {
        let told = Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    std::fs::write("/etc/resolv.conf", format!("nameserver {FAR}\n")).unwrap();
    let udp = UdpSocket::bind((FAR, 53)).unwrap();
    let tcp = TcpListener::bind((FAR, 53)).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((len, from)) = udp.recv_from(&mut bytes) {
            udp.send_to(&answer(&bytes[..len]), from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut bytes = [0; 512];
            stream.read_exact(&mut bytes[..2]).unwrap();
            let len = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            stream.read_exact(&mut bytes[..len]).unwrap();
            let answer = answer(&bytes[..len]);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
}

// The address is 192.0.2.7, whatever was asked; nothing else is known.
fn answer(query: &[u8]) -> Vec<u8> {
    let asks_v4 = query[query.len() - 4..] == [0, 1, 0, 1];
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    if asks_v4 {
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07");
    }
    answer
}

/// Bytes that compress badly, `len` of them.
pub fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(len).collect()
}

/// A digest as sha256sum prints it.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes connections at an address, and gives the digest of what came over each.
pub fn hashes(address: &str, port: u16) -> Receiver<String> {
    let (told, hashes) = channel();
    let server = TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            told.send(hash(&all)).unwrap();
        }
    });
    hashes
}

/// Sends the same to whoever connects.
pub fn sends(address: &str, port: u16, bytes: Vec<u8>) {
    let server = TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            stream.write_all(&bytes).unwrap();
        }
    });
}

/// Takes connections and hands them over.
pub fn accepts(address: &str, port: u16) -> Receiver<TcpStream> {
    let (told, streams) = channel();
    let server = TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            if told.send(stream).is_err() {
                return;
            }
        }
    });
    streams
}

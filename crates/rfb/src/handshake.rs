//! From the first byte to ServerInit (RFC 6143, 7.1 to 7.3), for protocol versions 3.3, 3.7 and 3.8.

use std::io::{self, Read, Write};
use std::time::Instant;

use crate::auth::{BackOff, CHALLENGE, Password};
use crate::bits::{VERSION_3_8, security};
use crate::pixel::PixelFormat;
use crate::region::Size;

/// A version that both sides speak. Anything else that a client claims counts as 3.3 (7.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3_3,
    V3_7,
    V3_8,
}

/// Why a client didn't get in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The stream failed or ended.
    #[error("the connection ended during the handshake")]
    Io(#[from] io::Error),
    /// The first twelve bytes are no RFB version.
    #[error("the client doesn't speak RFB")]
    NotRfb,
    /// The client chose a security type that wasn't offered.
    #[error("the client chose the security type {0}, which was not offered")]
    NotOffered(u8),
    /// Wrong password.
    #[error("wrong password")]
    WrongPassword,
    /// Too many wrong passwords from this peer.
    #[error("too many wrong passwords; the next try counts in {0} s")]
    BackOff(u64),
}

/// What lets clients in.
#[derive(Default)]
pub struct Door {
    /// The password, if one is asked for.
    pub password: Option<Password>,
    /// Wrong tries.
    pub back_off: BackOff,
}

/// Negotiates version and security and reads ClientInit. What it says of sharing doesn't matter: the desktop always is.
///
/// # Errors
/// When the client isn't let in; it has been told why where the version has a place for it.
pub fn negotiate<S: Read + Write>(stream: &mut S, door: &Door, peer: &str) -> Result<(), Refusal> {
    stream.write_all(VERSION_3_8)?;
    let version = read_version(stream)?;
    let kind = if door.password.is_some() { security::VNC_AUTH } else { security::NONE };
    if let Some(wait) = door.password.as_ref().and_then(|_| door.back_off.wait(peer, Instant::now())) {
        let refusal = Refusal::BackOff(wait.as_secs() + 1);
        refuse_security(stream, version, &refusal)?;
        return Err(refusal);
    }
    offer(stream, version, kind)?;
    if let Some(password) = &door.password {
        authenticate(stream, version, door, password, peer)?;
    } else if version == Version::V3_8 {
        stream.write_all(&security::OK.to_be_bytes())?;
    }
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// Sends ServerInit (7.3.2).
///
/// # Errors
/// When writing fails.
pub fn server_init(to: &mut impl Write, size: Size, name: &str) -> io::Result<()> {
    let mut message = Vec::with_capacity(24 + name.len());
    message.extend_from_slice(&wire(size.w).to_be_bytes());
    message.extend_from_slice(&wire(size.h).to_be_bytes());
    message.extend_from_slice(&PixelFormat::NATIVE.encode());
    message.extend_from_slice(&(name.len() as u32).to_be_bytes());
    message.extend_from_slice(name.as_bytes());
    to.write_all(&message)
}

/// A width or height as the wire can say it.
pub(crate) fn wire(pixels: u32) -> u16 {
    u16::try_from(pixels).unwrap_or(u16::MAX)
}

fn read_version(from: &mut impl Read) -> Result<Version, Refusal> {
    let mut text = [0; 12];
    from.read_exact(&mut text)?;
    let digits = |range: std::ops::Range<usize>| text[range].iter().all(u8::is_ascii_digit);
    if &text[..4] != b"RFB " || text[7] != b'.' || text[11] != b'\n' || !digits(4..7) || !digits(8..11) {
        return Err(Refusal::NotRfb);
    }
    Ok(match &text[4..11] {
        b"003.008" => Version::V3_8,
        b"003.007" => Version::V3_7,
        _ => Version::V3_3,
    })
}

// 7.1.2: in 3.3 the server decides; since 3.7 the client chooses from a list.
fn offer<S: Read + Write>(stream: &mut S, version: Version, kind: u8) -> Result<(), Refusal> {
    if version == Version::V3_3 {
        stream.write_all(&u32::from(kind).to_be_bytes())?;
        return Ok(());
    }
    stream.write_all(&[1, kind])?;
    let mut choice = [0];
    stream.read_exact(&mut choice)?;
    if choice[0] != kind {
        let refusal = Refusal::NotOffered(choice[0]);
        say_failed(stream, version, &refusal)?;
        return Err(refusal);
    }
    Ok(())
}

fn refuse_security(to: &mut impl Write, version: Version, why: &Refusal) -> io::Result<()> {
    match version {
        Version::V3_3 => to.write_all(&u32::from(security::INVALID).to_be_bytes())?,
        _ => to.write_all(&[0])?,
    }
    reason(to, why)
}

// 7.1.3: since 3.8 a reason follows.
fn say_failed(to: &mut impl Write, version: Version, why: &Refusal) -> io::Result<()> {
    to.write_all(&security::FAILED.to_be_bytes())?;
    if version == Version::V3_8 { reason(to, why) } else { Ok(()) }
}

fn reason(to: &mut impl Write, why: &Refusal) -> io::Result<()> {
    let text = why.to_string();
    to.write_all(&(text.len() as u32).to_be_bytes())?;
    to.write_all(text.as_bytes())
}

fn authenticate<S: Read + Write>(
    stream: &mut S,
    version: Version,
    door: &Door,
    password: &Password,
    peer: &str,
) -> Result<(), Refusal> {
    let mut challenge = [0u8; CHALLENGE];
    let got =
        rustix::rand::getrandom(&mut challenge, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
    if got != CHALLENGE {
        return Err(io::Error::other("the kernel gave no random challenge").into());
    }
    stream.write_all(&challenge)?;
    let mut response = [0; CHALLENGE];
    stream.read_exact(&mut response)?;
    let now = Instant::now();
    let refusal = match door.back_off.wait(peer, now) {
        Some(wait) => Refusal::BackOff(wait.as_secs() + 1),
        None if password.accepts(&challenge, &response) => {
            door.back_off.right(peer);
            stream.write_all(&security::OK.to_be_bytes())?;
            return Ok(());
        }
        None => {
            door.back_off.wrong(peer, now);
            Refusal::WrongPassword
        }
    };
    say_failed(stream, version, &refusal)?;
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that says `says`, whatever it hears.
    struct Client<'a> {
        says: &'a [u8],
        hears: Vec<u8>,
    }
    impl Read for Client<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.says.read(to)
        }
    }
    impl Write for Client<'_> {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.hears.write(from)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn talk(says: &[u8], door: &Door) -> (Result<(), Refusal>, Vec<u8>) {
        let mut client = Client { says, hears: Vec::new() };
        let outcome = negotiate(&mut client, door, "peer");
        (outcome, client.hears)
    }

    fn locked() -> Door {
        Door { password: Some(Password::new("secret").unwrap()), ..Door::default() }
    }

    #[test]
    fn open_doors_of_each_version() {
        let open = Door::default();
        let (outcome, heard) = talk(b"RFB 003.008\n\x01\x01", &open);
        outcome.unwrap();
        assert_eq!(heard, b"RFB 003.008\n\x01\x01\0\0\0\0");
        let (outcome, heard) = talk(b"RFB 003.007\n\x01\x00", &open);
        outcome.unwrap();
        assert_eq!(heard, b"RFB 003.008\n\x01\x01", "3.7 has no result for None");
        for version in [b"RFB 003.003\n\x01", b"RFB 003.005\n\x01", b"RFB 003.889\n\x01"] {
            let (outcome, heard) = talk(version, &open);
            outcome.unwrap();
            assert_eq!(heard, b"RFB 003.008\n\0\0\0\x01");
        }
    }

    #[test]
    fn a_wrong_password_is_told_where_the_version_has_a_place() {
        let mut says = b"RFB 003.008\n\x02".to_vec();
        says.extend([0; 16]);
        let (refused, heard) = talk(&says, &locked());
        assert!(matches!(refused, Err(Refusal::WrongPassword)));
        assert_eq!(heard[..14], *b"RFB 003.008\n\x01\x02");
        assert_eq!(heard[30..], *b"\0\0\0\x01\0\0\0\x0ewrong password");
        says[..12].copy_from_slice(b"RFB 003.007\n");
        assert_eq!(talk(&says, &locked()).1[30..], *b"\0\0\0\x01");
        let mut says = b"RFB 003.003\n".to_vec();
        says.extend([0; 16]);
        let (_, heard) = talk(&says, &locked());
        assert_eq!(heard[12..16], *b"\0\0\0\x02");
        assert_eq!(heard[32..], *b"\0\0\0\x01");
    }

    #[test]
    fn a_guesser_is_sent_away() {
        let door = locked();
        let mut says = b"RFB 003.008\n\x02".to_vec();
        says.extend([0; 16]);
        (0..3).for_each(|_| drop(talk(&says, &door)));
        let (refused, heard) = talk(&says, &door);
        assert!(matches!(refused, Err(Refusal::BackOff(_))));
        assert_eq!(heard[12], 0, "no security type");
        assert!(String::from_utf8_lossy(&heard).contains("too many wrong passwords"));
        let (_, heard) = talk(b"RFB 003.003\n", &door);
        assert_eq!(heard[12..16], [0; 4]);
    }

    #[test]
    fn none_cannot_be_chosen_when_a_password_is_asked_for() {
        let (refused, heard) = talk(b"RFB 003.008\n\x01\x01", &locked());
        assert!(matches!(refused, Err(Refusal::NotOffered(1))));
        assert_eq!(heard[14..18], [0, 0, 0, 1]);
    }

    #[test]
    fn what_is_not_rfb_is_refused() {
        for says in [&b"GET / HTTP/1.1\r\n"[..], b"RFB 003.008\r", b"RFB 0x3.008\n", b"RFB 003 008\n"] {
            assert!(matches!(talk(says, &Door::default()).0, Err(Refusal::NotRfb)));
        }
        assert!(matches!(talk(b"RFB 003.0", &Door::default()).0, Err(Refusal::Io(_))));
    }

    #[test]
    fn server_init_is_these_bytes() {
        let mut to = Vec::new();
        server_init(&mut to, Size { w: 1280, h: 800 }, "web").unwrap();
        assert_eq!(to[..4], [5, 0, 3, 0x20]);
        assert_eq!(to[4..20], PixelFormat::NATIVE.encode());
        assert_eq!(to[20..], *b"\0\0\0\x03web");
    }
}

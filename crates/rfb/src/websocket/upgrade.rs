//! The opening handshake (RFC 6455, 4.2): an HTTP request that becomes a WebSocket, or is told what this port is.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::bits::KEY_SUFFIX;

/// Longest request, cookies and all.
const LONGEST_REQUEST: usize = 8 << 10;
/// Header fields of a request.
const MOST_FIELDS: usize = 64;
/// How long a request may take as a whole, however slowly it comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "this port shows a virtual machine's screen (VNC) to viewers that speak WebSocket, such as noVNC, and nothing else"
    )]
    NoWebSocket,
    #[error("that is no HTTP request")]
    Malformed,
    #[error("the request is longer than {LONGEST_REQUEST} bytes")]
    TooLong,
    #[error("WebSocket begins with a GET request of HTTP/1.1")]
    Method,
    #[error("the request has no Sec-WebSocket-Key of 16 bytes")]
    Key,
    #[error("version 13 of WebSocket is spoken here")]
    Version,
    #[error("web pages of {0} may not look at a screen that has no password: give it one")]
    Origin(String),
}

impl Refusal {
    fn status(&self) -> &'static str {
        match self {
            Refusal::NoWebSocket | Refusal::Version => "426 Upgrade Required",
            Refusal::Malformed | Refusal::Key => "400 Bad Request",
            Refusal::TooLong => "431 Request Header Fields Too Large",
            Refusal::Method => "405 Method Not Allowed",
            Refusal::Origin(_) => "403 Forbidden",
        }
    }
}

/// Reads a client's request and answers it. Gives the bytes that came after it. `guarded` says that clients have to know a
/// password; `limit` sets how long a read may wait.
///
/// # Errors
/// When the stream fails, the request takes too long, or it is refused; the client has been told then.
pub(crate) fn accept<S: Read + Write>(
    stream: &mut S,
    guarded: bool,
    limit: impl Fn(&S, Duration) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let (request, rest) = match read(stream, limit) {
        Ok(both) => both,
        Err(error) => {
            if let Some(refusal) = error.get_ref().and_then(|e| e.downcast_ref::<Refusal>()) {
                refuse(stream, refusal)?;
            }
            return Err(error);
        }
    };
    match answer(&request, guarded) {
        Ok(answer) => stream.write_all(answer.as_bytes())?,
        Err(refusal) => {
            refuse(stream, &refusal)?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
        }
    }
    Ok(rest)
}

// The request up to its empty line, and what came behind it.
fn read<S: Read>(stream: &mut S, limit: impl Fn(&S, Duration) -> io::Result<()>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let refuse = |refusal| Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
    let latest = Instant::now() + PATIENCE;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let left = latest.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        limit(stream, left)?;
        let got = stream.read(&mut piece)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let searched = request.len().saturating_sub(3);
        request.extend_from_slice(piece.get(..got).unwrap_or_default());
        let end = request.get(searched..).and_then(|new| new.windows(4).position(|w| w == b"\r\n\r\n"));
        let end = end.map(|at| searched + at + 4);
        if end.unwrap_or(request.len()) > LONGEST_REQUEST {
            return refuse(Refusal::TooLong);
        }
        if let Some(end) = end {
            let rest = request.split_off(end);
            return Ok((request, rest));
        }
        // Bytes that are no request needn't be waited for to their end.
        if !request.first().is_some_and(u8::is_ascii_uppercase) {
            return refuse(Refusal::Malformed);
        }
    }
}

fn refuse(to: &mut impl Write, refusal: &Refusal) -> io::Result<()> {
    let (status, text) = (refusal.status(), refusal.to_string());
    let len = text.len() + 1;
    write!(
        to,
        "HTTP/1.1 {status}\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n\
         Allow: GET\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\r\n{text}\n"
    )
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .filter_map(|field| std::str::from_utf8(field.value).ok())
    }

    fn one(&self, name: &'static str) -> Option<&'a str> {
        self.all(name).next().map(str::trim)
    }

    // Whether a word stands in the field's lists.
    fn lists(&self, name: &'static str, word: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }
}

fn answer(request: &[u8], guarded: bool) -> Result<String, Refusal> {
    let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut room);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLong),
        _ => return Err(Refusal::Malformed),
    }
    let fields = Fields(parsed.headers);
    if !fields.lists("Upgrade", "websocket") || !fields.lists("Connection", "Upgrade") {
        return Err(Refusal::NoWebSocket);
    }
    if parsed.method != Some("GET") || parsed.version != Some(1) {
        return Err(Refusal::Method);
    }
    if fields.one("Sec-WebSocket-Version") != Some("13") {
        return Err(Refusal::Version);
    }
    let key = fields.one("Sec-WebSocket-Key").filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16));
    let key = key.ok_or(Refusal::Key)?;
    if let Some(origin) = fields.one("Origin").filter(|origin| !guarded && !is_near(origin, fields.one("Host"))) {
        return Err(Refusal::Origin(origin.to_owned()));
    }
    let accept = STANDARD.encode(Sha1::digest(format!("{key}{KEY_SUFFIX}")));
    // 4.2.2: only what the client offered may be chosen.
    let protocol =
        if fields.lists("Sec-WebSocket-Protocol", "binary") { "Sec-WebSocket-Protocol: binary\r\n" } else { "" };
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    ))
}

// Any page that a browser on this host shows may connect to 127.0.0.1, so where there is no password only pages of this
// host itself get in: those of its loopback names, and those of the address that was asked for. A name that was asked for
// proves nothing: its owner may have made it lead here.
fn is_near(origin: &str, host: Option<&str>) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let from = host_of(authority);
    let address: Option<IpAddr> = from.parse().ok();
    match address {
        Some(address) => address.is_loopback() || host.is_some_and(|host| host_of(host).parse() == Ok(address)),
        None => from.eq_ignore_ascii_case("localhost"),
    }
}

// Without port and brackets.
fn host_of(authority: &str) -> &str {
    if let Some((inside, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6455, 1.3: this key is answered by s3pPLMBiTxaQ9kYGzzhZRbK+xOo=.
    const GOOD: &str = "GET /websockify HTTP/1.1\r\nHost: 192.0.2.1:5700\r\nUpgrade: WebSocket\r\n\
                        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                        Sec-WebSocket-Version: 13\r\n";

    fn ask(more: &str) -> Result<String, Refusal> {
        answer(format!("{GOOD}{more}\r\n").as_bytes(), false)
    }

    #[test]
    fn the_standards_key_has_its_answer() {
        let plain = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(ask("").unwrap(), format!("{plain}\r\n"));
        let with = format!("{plain}Sec-WebSocket-Protocol: binary\r\n\r\n");
        assert_eq!(ask("Sec-WebSocket-Protocol: base64, binary\r\n").unwrap(), with);
        assert_eq!(ask("Sec-WebSocket-Protocol: chat\r\n").unwrap(), format!("{plain}\r\n"));
    }

    #[test]
    fn other_requests_are_told_why() {
        let changed = |from: &str, to: &str| answer(format!("{}\r\n", GOOD.replace(from, to)).as_bytes(), false);
        let cases = [
            ("Upgrade: WebSocket\r\n", "", Refusal::NoWebSocket),
            ("keep-alive, Upgrade", "keep-alive", Refusal::NoWebSocket),
            ("GET ", "POST ", Refusal::Method),
            ("HTTP/1.1", "HTTP/1.0", Refusal::Method),
            ("Version: 13", "Version: 8", Refusal::Version),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", Refusal::Key),
            ("dGhlIHNhbXBsZSBub25jZQ==", "???", Refusal::Key),
            ("HTTP/1.1", "FTP", Refusal::Malformed),
        ];
        for (from, to, refusal) in cases {
            assert_eq!(changed(from, to), Err(refusal), "{from} -> {to}");
        }
        let many = "X: y\r\n".repeat(MOST_FIELDS);
        assert_eq!(ask(&many), Err(Refusal::TooLong));
        let mut text = Vec::new();
        refuse(&mut text, &Refusal::NoWebSocket).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 426 ") && head.contains(&format!("Content-Length: {}", body.len())));
        assert!(body.contains("noVNC"));
    }

    #[test]
    fn a_request_has_a_bound() {
        for (len, is_taken) in [(LONGEST_REQUEST, true), (LONGEST_REQUEST + 1, false)] {
            let cookie = len - GOOD.len() - "X: \r\n\r\n".len();
            let request = format!("{GOOD}X: {}\r\n\r\n", "y".repeat(cookie));
            let read = read(&mut format!("{request}early").as_bytes(), |_, _| Ok(()));
            assert_eq!(read.as_ref().is_ok_and(|(head, _)| head == request.as_bytes()), is_taken, "{len}");
        }
    }

    #[test]
    fn pages_of_others_need_a_password() {
        for near in ["http://localhost:8000", "https://127.0.0.1", "http://[::1]:80", "http://192.0.2.1:8080"] {
            assert!(ask(&format!("Origin: {near}\r\n")).is_ok(), "{near}");
        }
        for far in ["https://example.com", "null", "http://192.0.2.2", "http://localhost.example.com", "file://"] {
            assert_eq!(ask(&format!("Origin: {far}\r\n")), Err(Refusal::Origin(far.into())));
            assert!(answer(format!("{GOOD}Origin: {far}\r\n\r\n").as_bytes(), true).is_ok(), "{far} with a password");
        }
        // Its owner made the name lead here.
        let request =
            format!("{}Origin: http://example.com\r\n\r\n", GOOD.replace("192.0.2.1:5700", "example.com:5700"));
        assert!(matches!(answer(request.as_bytes(), false), Err(Refusal::Origin(_))));
    }
}

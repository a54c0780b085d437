//! A web server on loopback that says what a test wants it to say, right or wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

/// What it says of a method and path: the bytes of the whole response; `None` is a 404.
pub type Answer = dyn Fn(&str, &str) -> Option<Vec<u8>> + Send + Sync;

/// A response with everything in order.
pub fn fine(body: &[u8]) -> Vec<u8> {
    claims(body.len(), body)
}

/// A response that announces `len` bytes, however many it has.
pub fn claims(len: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A response that sends elsewhere.
pub fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Serves until the test ends; gives the address. The answer depends on the path alone.
pub fn serve(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
    serve_requests(move |_, path| answer(path))
}

/// As [`serve`], by method and path.
pub fn serve_requests(answer: impl Fn(&str, &str) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer: &'static Answer = Box::leak(Box::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || respond(stream, answer));
        }
    });
    address
}

fn respond(stream: TcpStream, answer: &Answer) {
    let mut lines = BufReader::new(&stream).lines();
    let Some(Ok(first)) = lines.next() else { return };
    // The rest of the request is read, or closing would reset the connection under the response.
    for line in lines.by_ref() {
        if line.map_or(true, |line| line.is_empty()) {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let missing = || b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
    let mut bytes = answer(method, path).unwrap_or_else(missing);
    if method == "HEAD" {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        bytes.truncate(end);
    }
    // A client that has heard enough may go.
    let _ = (&stream).write_all(&bytes);
}

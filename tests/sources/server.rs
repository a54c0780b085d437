//! A web server on loopback that is told what to say to each request, and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// Header fields, names in small letters.
    pub fields: Vec<(String, String)>,
    /// How many came before it, to any path.
    pub number: usize,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Where the range begins that it asks for.
    pub fn from(&self) -> Option<usize> {
        self.field("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// Says something on a connection, as much as it likes.
pub type Answer = dyn Fn(&Request, &mut TcpStream) + Send + Sync;

/// A server, until the test ends.
pub struct Server {
    /// Its address, without a slash at the end.
    pub url: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn new(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
        let answer: &'static Answer = Box::leak(Box::new(answer));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = seen.clone();
                std::thread::spawn(move || respond(stream, answer, &seen));
            }
        });
        Self { url, asked }
    }

    /// A server with these files and nothing else.
    pub fn of(files: &[(&str, &[u8])]) -> Self {
        let files: Vec<(String, Vec<u8>)> =
            files.iter().map(|(path, bytes)| ((*path).into(), bytes.to_vec())).collect();
        Self::new(move |request, stream| {
            let path = request.path().trim_start_matches('/');
            match files.iter().find(|(name, _)| name == path) {
                Some((_, bytes)) => whole(stream, request, &[], bytes),
                None => head(stream, "404 Not Found", &["Content-Length: 0"]),
            }
        })
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().clone()
    }
}

fn respond(mut stream: TcpStream, answer: &Answer, asked: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(line) = lines.next() else { return };
    let fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    let mut request = Request { line, fields: fields.collect(), number: 0 };
    {
        let mut asked = asked.lock();
        request.number = asked.len();
        asked.push(request.clone());
    }
    answer(&request, &mut stream);
}

/// Sends a response's head.
pub fn head(stream: &mut TcpStream, status: &str, fields: &[&str]) {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    // A client that has heard enough may go.
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n{fields}\r\n").as_bytes());
}

/// Sends a file as a server should that doesn't know ranges.
pub fn whole(stream: &mut TcpStream, request: &Request, fields: &[&str], bytes: &[u8]) {
    let length = format!("Content-Length: {}", bytes.len());
    head(stream, "200 OK", &[fields, &[&length]].concat());
    if !request.line.starts_with("HEAD") {
        let _ = stream.write_all(bytes);
    }
}

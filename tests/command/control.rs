//! The control socket in the hands of clients that misbehave, and its events of disks.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::home::Home;
use super::talk::PATIENCE;

/// A client of a machine's control socket.
pub struct Client {
    lines: BufReader<UnixStream>,
}

fn path(home: &Home, name: &str) -> String {
    let info: Value = serde_json::from_str(&home.kiln(&["dominfo", name, "--json"]).ends(0).out).unwrap();
    info["running"]["control"].as_str().unwrap().to_owned()
}

fn connect(path: &str) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Client {
    /// Connects, and agrees on capabilities.
    pub fn of(home: &Home, name: &str) -> Self {
        let mut client = Self { lines: BufReader::new(connect(&path(home, name))) };
        assert!(client.next()["QMP"]["version"]["package"].as_str().unwrap().starts_with("kiln-"));
        assert_eq!(client.ask(&json!({ "execute": "qmp_capabilities" })), json!({ "return": {} }));
        client
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// Gives a command, and its answer, when no event comes between.
    pub fn ask(&mut self, command: &Value) -> Value {
        self.lines.get_mut().write_all(command.to_string().as_bytes()).unwrap();
        self.next()
    }

    /// The data of the next event, which must be this one.
    #[track_caller]
    pub fn hears(&mut self, event: &str) -> Value {
        let told = self.next();
        assert_eq!(told["event"], event, "{told}");
        assert!(told["timestamp"]["seconds"].is_u64() && told["timestamp"]["microseconds"].is_u64(), "{told}");
        told["data"].clone()
    }
}

/// That a client which would have written on and on was sent away, not waited for. The kernel calls it a reset at the
/// first write after what the client sent was thrown away unread (unix(7)), else a broken pipe.
#[track_caller]
fn sent_away(error: &std::io::Error) {
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

/// Clients that send too much, read nothing, are many, or go in the middle of a word: others notice nothing.
pub fn misbehave(home: &Home, name: &str) {
    let path = path(home, name);
    // Its user's alone.
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut good = Client::of(home, name);
    // Ten megabytes of one line: told once, and sent away.
    let mut long = connect(&path);
    let sent = (0..160).try_for_each(|_| long.write_all(&[b'x'; 64 << 10]));
    sent_away(&sent.unwrap_err());
    let mut told = String::new();
    // What waited unread makes the kernel break the connection, after what was sent to us.
    let _ = long.read_to_string(&mut told);
    assert!(told.contains("without an end"), "{told}");
    // Half a word, and gone.
    connect(&path).write_all(b"{\"execute\": \"qmp_cap").unwrap();
    // One who asks and asks, and never reads.
    let mut deaf = connect(&path);
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}").unwrap();
    let flood = b"{\"execute\":\"query-commands\"}".repeat(1000);
    let sent = (0..1000).try_for_each(|_| deaf.write_all(&flood));
    sent_away(&sent.unwrap_err());
    // More than there is room for: those too many are let in when others have gone.
    let many: Vec<UnixStream> = (0..40).map(|_| connect(&path)).collect();
    assert_eq!(good.ask(&json!({ "execute": "query-name" })), json!({ "return": { "name": name } }));
    drop(many);
    let deadline = std::time::Instant::now() + PATIENCE;
    while connect(&path).read(&mut [0]).is_ok_and(|got| got == 0) {
        assert!(std::time::Instant::now() < deadline, "there is no room any more");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(good.ask(&json!({ "execute": "query-status", "id": 1 }))["return"]["running"], true);
}

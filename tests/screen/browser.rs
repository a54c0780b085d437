//! noVNC in a headless Chromium: the page of docs/viewers.md shows a screen; what it shows comes back, pixel by pixel.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use crate::desktop::Program;
use crate::pattern::Picture;
use crate::stage::PATIENCE;

/// The page that docs show.
fn page(websocket: u16) -> String {
    let text = include_str!("../../docs/viewers.md");
    let (_, rest) = text.split_once("```html\n").unwrap();
    let (page, _) = rest.split_once("```").unwrap();
    assert!(page.contains("ws://127.0.0.1:5700/"));
    page.replace(":5700/", &format!(":{websocket}/")) + LOOP
}

/// Hands over the picture and gets keys to press. Errors are handed over too.
const LOOP: &str = r#"<script type="module">
import "./core/rfb.js";
const say = text => fetch("/say", { method: "POST", body: text });
window.onerror = (...all) => say(String(all));
rfb.addEventListener("disconnect", e => say("disconnected " + e.detail.clean));
rfb.addEventListener("connect", async () => {
    await say("connected");
    for (;;) {
        const picture = rfb.getImageData();
        const answer = await fetch("/picture/" + picture.width, { method: "POST", body: picture.data });
        for (const [keysym, code] of await answer.json()) rfb.sendKey(keysym, code);
    }
});
</script>"#;

/// A key as noVNC presses it: its keysym, and its place on the keyboard.
pub type Key = (u32, &'static str);

#[derive(Default)]
struct Talk {
    said: Vec<String>,
    /// The last picture as it came, and what it shows.
    bytes: Vec<u8>,
    picture: Option<Picture>,
    keys: VecDeque<Key>,
}

/// A browser that shows a screen.
pub struct Browser {
    _chromium: Program,
    talk: Arc<(Mutex<Talk>, Condvar)>,
    _folder: TempDir,
}

/// Where `cargo xtask test` puts noVNC.
fn novnc() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("novnc").join("package");
    assert!(path.exists(), "{} is missing: run the tests by `cargo xtask test`, which installs it", path.display());
    path
}

impl Browser {
    /// Opens the page, which connects to a WebSocket of 127.0.0.1.
    pub fn open(websocket: u16) -> Self {
        let talk = Arc::new((Mutex::new(Talk::default()), Condvar::new()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ours, root) = (talk.clone(), novnc());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (talk, root) = (ours.clone(), root.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &root, websocket, &talk));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let mut chromium = Command::new("chromium");
        chromium.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        chromium.arg("--window-size=1400,1000").arg(format!("--user-data-dir={}", folder.path().display()));
        chromium.arg(format!("http://127.0.0.1:{port}/")).env("HOME", folder.path()).process_group(0);
        chromium.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let chromium = Program(chromium.spawn().expect("chromium is missing: run the tests by `cargo xtask test`"));
        Self { _chromium: chromium, talk, _folder: folder }
    }

    /// Waits until the page shows a picture.
    pub fn waits_for(&self, wanted: &Picture) {
        self.waits_until(|seen| seen == wanted, |seen| seen.difference(wanted));
    }

    /// Waits until the page shows a text, which `read` finds on its picture.
    pub fn reads(&self, lines: &[&str], read: impl Fn(&Picture) -> String) {
        let stands = |seen: &Picture| {
            let text = read(seen);
            lines.iter().all(|line| text.contains(line))
        };
        self.waits_until(stands, |seen| Some(format!("{seen:?}, on which stands:\n{}\n", read(seen))));
    }

    fn waits_until(&self, is: impl Fn(&Picture) -> bool, differs: impl Fn(&Picture) -> Option<String>) {
        let end = Instant::now() + PATIENCE;
        let mut talk = self.talk.0.lock();
        while !talk.picture.as_ref().is_some_and(&is) {
            let late = self.talk.1.wait_until(&mut talk, end).timed_out();
            let differs = || talk.picture.as_ref().and_then(&differs).unwrap_or_default();
            assert!(!late, "the browser doesn't show it: {}; it said {:?}", differs(), talk.said);
        }
    }

    /// Has the page press keys.
    pub fn types(&self, keys: &[Key]) {
        self.talk.0.lock().keys.extend(keys);
    }
}

// One request: a file of noVNC's, the page, or what the page has to say.
fn serve(stream: TcpStream, root: &Path, websocket: u16, talk: &(Mutex<Talk>, Condvar)) {
    let mut from = BufReader::new(stream);
    let mut lines = (&mut from).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let length =
        lines.filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()).last();
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).unwrap();
    let path = request.split(' ').nth(1).unwrap_or("/");
    let answer = if path == "/" {
        Some(("text/html", page(websocket).into_bytes()))
    } else if path == "/say" {
        talk.0.lock().said.push(String::from_utf8_lossy(&body).into_owned());
        Some(("text/plain", vec![]))
    } else if let Some(width) = path.strip_prefix("/picture/") {
        // Most of the time it is the same one.
        if talk.0.lock().bytes != body {
            let pixels = body.chunks_exact(4).map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]])).collect();
            let mut talking = talk.0.lock();
            talking.picture = Some(Picture { width: width.parse().unwrap(), pixels });
            talking.bytes = body;
            talk.1.notify_all();
        }
        let keys: Vec<Key> = talk.0.lock().keys.drain(..).collect();
        Some(("application/json", serde_json::to_vec(&keys).unwrap()))
    } else {
        fs::read(root.join(path.trim_start_matches('/'))).ok().map(|file| ("text/javascript", file))
    };
    let (status, kind, body) = match answer {
        Some((kind, body)) => ("200 OK", kind, body),
        None => ("404 Not Found", "text/plain", vec![]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A browser that is gone needs none.
    let _ = from.get_mut().write_all(&[head.as_bytes(), &body].concat());
}

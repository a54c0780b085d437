//! Downloads from servers that break off, stall, lie or change, and by way of proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln::failure::{Failure, Status};
use kiln::media::fetch::{Fetcher, Job, Patience};
use parking_lot::{Condvar, Mutex};

use super::home::{Home, install};
use super::medium::bytes;
use super::server::{Request, Server, head, whole};

/// A patience that tests have time for.
fn patience(tries: usize) -> Patience {
    let pauses = vec![Duration::from_millis(10); tries - 1];
    Patience { connect: Duration::from_secs(10), stall: Duration::from_secs(10), pauses }
}

fn job(home: &Home, server: &Server, what: &'static str) -> Job {
    Job { what, url: format!("{}/{what}", server.url), to: home.path(what), sum: None }
}

fn fetch(home: &Home, server: &Server, patience: Patience) -> Result<Vec<u8>, Failure> {
    let job = job(home, server, "kernel");
    Fetcher::with(&server.url, patience)?.files(std::slice::from_ref(&job))?;
    assert!(!home.path("kernel.part").exists());
    Ok(fs::read(job.to).unwrap())
}

#[track_caller]
fn fails(home: &Home, server: &Server, patience: Patience, status: Status, texts: &[&str]) {
    let failure = fetch(home, server, patience).unwrap_err();
    for text in texts {
        assert!(failure.to_string().contains(text), "{text:?} is not said by {failure}");
    }
    assert_eq!(failure.status, status, "{failure}");
    assert!(home.files().is_empty(), "{:?}", home.files());
}

const TAG: &str = "ETag: \"one\"";

/// Sends the file from where it is asked for, and breaks off after `most` bytes.
fn part(stream: &mut TcpStream, request: &Request, fields: &[&str], file: &[u8], most: usize) {
    let from = request.from().unwrap_or(0);
    let rest = &file[from..];
    let length = format!("Content-Length: {}", rest.len());
    let range = format!("Content-Range: bytes {from}-{}/{}", file.len() - 1, file.len());
    match request.from() {
        Some(_) => head(stream, "206 Partial Content", &[fields, &[&length, &range]].concat()),
        None => head(stream, "200 OK", &[fields, &[&length]].concat()),
    }
    let _ = stream.write_all(&rest[..rest.len().min(most)]);
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let home = Home::new();
    let file = bytes(1, 3_000_000);
    for (fields, validator) in [
        (vec![TAG], "\"one\""),
        (
            vec!["Last-Modified: Tue, 02 Jan 2024 00:00:00 GMT", "Date: Tue, 02 Jan 2024 00:00:05 GMT"],
            "Tue, 02 Jan 2024 00:00:00 GMT",
        ),
    ] {
        let served = file.clone();
        let server = Server::new(move |request, stream| part(stream, request, &fields, &served, 700_000));
        // Less than a good piece each time: so many tries there must be.
        assert!(fetch(&home, &server, patience(5)).unwrap() == file);
        let asked = server.asked();
        let ranges: Vec<Option<usize>> = asked.iter().map(Request::from).collect();
        assert_eq!(ranges, [None, Some(700_000), Some(1_400_000), Some(2_100_000), Some(2_800_000)]);
        assert!(asked[1..].iter().all(|request| request.field("if-range") == Some(validator)), "{asked:?}");
    }
}

#[test]
fn good_pieces_make_the_tries_count_anew() {
    let home = Home::new();
    let file = bytes(2, 6_000_000);
    let served = file.clone();
    let server = Server::new(move |request, stream| part(stream, request, &[TAG], &served, 1_100_000));
    assert!(fetch(&home, &server, patience(2)).unwrap() == file);
    assert_eq!(server.asked().len(), 6);
}

#[test]
fn without_a_word_that_it_is_the_same_a_download_begins_anew() {
    let home = Home::new();
    let file = bytes(3, 500_000);
    let same = "Tue, 02 Jan 2024 00:00:00 GMT";
    let (changed, now) = (format!("Last-Modified: {same}"), format!("Date: {same}"));
    for fields in [vec![], vec!["ETag: W/\"weak\"".to_owned()], vec![changed, now]] {
        let served = file.clone();
        let server = Server::new(move |request, stream| {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            part(stream, request, &fields, &served, if request.number == 0 { 300_000 } else { usize::MAX });
        });
        assert!(fetch(&home, &server, patience(2)).unwrap() == file);
        assert!(server.asked().iter().all(|request| request.from().is_none()), "{:?}", server.asked());
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_fetched_anew() {
    let home = Home::new();
    let (old, new) = (bytes(4, 500_000), bytes(5, 400_000));
    // As servers do that know If-Range; that send a part of another file; and that have nothing there any more.
    for manner in 0..3 {
        let (old, newer) = (old.clone(), new.clone());
        let server = Server::new(move |request, stream| match (request.number, manner) {
            (0, _) => part(stream, request, &[TAG], &old, 300_000),
            (1, 1) => {
                let range = format!("Content-Range: bytes 300000-399999/{}", newer.len());
                head(stream, "206 Partial Content", &["Content-Length: 100000", &range]);
                let _ = stream.write_all(&newer[300_000..]);
            }
            (1, 2) => head(stream, "416 Range Not Satisfiable", &["Content-Length: 0"]),
            _ => whole(stream, request, &["ETag: \"two\""], &newer),
        });
        assert!(fetch(&home, &server, patience(3)).unwrap() == new, "manner {manner}");
        assert_eq!(server.asked()[1].from(), Some(300_000));
    }
}

#[test]
fn a_part_from_elsewhere_than_asked_for_is_not_taken() {
    let home = Home::new();
    let file = bytes(6, 500_000);
    let served = file.clone();
    let server = Server::new(move |request, stream| match request.from() {
        Some(_) => {
            head(stream, "206 Partial Content", &["Content-Length: 9", "Content-Range: bytes 0-8/500000"]);
            let _ = stream.write_all(&served[..9]);
        }
        None => part(stream, request, &[TAG], &served, if request.number == 0 { 300_000 } else { usize::MAX }),
    });
    assert!(fetch(&home, &server, patience(3)).unwrap() == file);
}

#[test]
fn a_server_may_give_less_than_it_is_asked_for() {
    let home = Home::new();
    let file = bytes(8, 500_000);
    let served = file.clone();
    let server = Server::new(move |request, stream| match request.from() {
        None => part(stream, request, &[TAG], &served, 100_000),
        Some(from) => {
            let piece = &served[from..(from + 200_000).min(served.len())];
            let range = format!("Content-Range: bytes {from}-{}/500000", from + piece.len() - 1);
            head(stream, "206 Partial Content", &[TAG, &format!("Content-Length: {}", piece.len()), &range]);
            let _ = stream.write_all(piece);
        }
    });
    assert!(fetch(&home, &server, patience(3)).unwrap() == file);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn a_server_that_stalls() {
    let home = Home::new();
    let file = bytes(7, 200_000);
    let served = file.clone();
    let server = Server::new(move |request, stream| {
        part(stream, request, &[TAG], &served, if request.number == 0 { 1000 } else { usize::MAX });
        if request.number == 0 {
            // Says no more, and stays; until the other side goes.
            let _ = stream.read(&mut [0]);
        }
    });
    let short = Patience { stall: Duration::from_millis(300), ..patience(2) };
    assert!(fetch(&home, &server, short.clone()).unwrap() == file);
    assert_eq!(server.asked()[1].from(), Some(1000));
    fs::remove_file(home.path("kernel")).unwrap();
    let silent = Server::new(|request, stream| {
        head(stream, "200 OK", &["Content-Length: 1000"]);
        let _ = stream.write_all(&request.number.to_le_bytes());
        let _ = stream.read(&mut [0]);
    });
    fails(&home, &silent, short.clone(), Status::Failed, &["no byte came for 0.3 s", "so it was at 2 tries"]);
    // One that doesn't even answer.
    let mute = Server::new(|_, stream| drop(stream.read(&mut [0])));
    fails(&home, &mute, short, Status::Failed, &["so it was at 2 tries"]);
}

#[test]
fn a_server_that_lies_about_the_length() {
    let home = Home::new();
    let long = Server::new(|_, stream| {
        head(stream, "200 OK", &["Content-Length: 1000"]);
        let _ = stream.write_all(&[1; 600]);
    });
    let texts = ["/kernel was cut short", "600 of 1000 bytes came", "so it was at 3 tries", "> Try again"];
    fails(&home, &long, patience(3), Status::Failed, &texts);
    assert_eq!(long.asked().len(), 3);
    let absurd = Server::new(|_, stream| head(stream, "200 OK", &["Content-Length: 1000000000000"]));
    fails(&home, &absurd, patience(3), Status::Failed, &["can't be the kernel", "it is larger than 4 GiB"]);
    assert_eq!(absurd.asked().len(), 1, "it won't become smaller");
    // Less than there is: a sum tells.
    let short = Server::new(|_, stream| {
        head(stream, "200 OK", &["Content-Length: 600"]);
        let _ = stream.write_all(&[1; 1000]);
    });
    let job = Job { sum: Some("ab".repeat(32)), ..job(&home, &short, "kernel") };
    let failure = Fetcher::with(&short.url, patience(2)).unwrap().files(&[job]).unwrap_err();
    assert_eq!(failure.status, Status::Verification, "{failure}");
    assert!(home.files().is_empty());
}

#[test]
fn what_passes_is_waited_for_and_what_does_not_is_told_at_once() {
    let home = Home::new();
    for status in ["408 Late", "429 Slow Down", "500 Oh", "502 Oh", "503 Busy", "504 Late"] {
        let server = Server::new(move |request, stream| match request.number {
            0 | 1 => head(stream, status, &["Content-Length: 0"]),
            2 => {} // Hangs up.
            _ => whole(stream, request, &[], b"a kernel"),
        });
        assert_eq!(fetch(&home, &server, patience(4)).unwrap(), b"a kernel");
        fs::remove_file(home.path("kernel")).unwrap();
        // A look is as patient.
        let fetcher = Fetcher::with(&server.url, patience(4)).unwrap();
        assert!(fetcher.exists(&format!("{}/x", server.url)).unwrap());
    }
    // So is a list of sums, of which a half would be as bad as none.
    let list = Server::new(|request, stream| {
        head(stream, "200 OK", &["Content-Length: 8"]);
        let _ = stream.write_all(if request.number < 2 { b"half" } else { b"a whole." });
    });
    let look = |tries| Fetcher::with(&list.url, patience(tries)).unwrap().text(&list.url);
    assert!(look(2).unwrap_err().to_string().contains("so it was at 2 tries"));
    assert_eq!(look(2).unwrap().as_deref(), Some("a whole."));
    for (status, exit, text) in [
        ("404 Not Found", Status::NotFound, "/kernel is not there"),
        ("403 Forbidden", Status::NotFound, "the server answered 403"),
        ("401 Unauthorized", Status::Failed, "the server answered 401"),
        ("501 Never", Status::Failed, "the server answered 501"),
    ] {
        let server = Server::new(move |_, stream| head(stream, status, &["Content-Length: 0"]));
        fails(&home, &server, patience(4), exit, &[text]);
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

/// Somebody waits until so many have come.
#[derive(Clone, Default)]
struct Meeting(Arc<(Mutex<usize>, Condvar)>);

impl Meeting {
    fn of(&self, wanted: usize) -> bool {
        let mut come = self.0.0.lock();
        *come += 1;
        self.0.1.notify_all();
        while *come < wanted {
            if self.0.1.wait_for(&mut come, Duration::from_secs(60)).timed_out() {
                return false;
            }
        }
        true
    }
}

#[test]
fn files_come_at_the_same_time_and_are_told_in_their_order() {
    let home = Home::new();
    let meeting = Meeting::default();
    // Neither is answered before both are asked for; the second is sent first.
    let (both, sent) = (meeting.clone(), Meeting::default());
    let server = Server::new(move |request, stream| {
        assert!(both.of(2), "the other isn't asked for");
        if request.path() == "/kernel" {
            sent.of(2);
        }
        whole(stream, request, &[], request.path().as_bytes());
        if request.path() == "/initrd" {
            sent.of(2);
        }
    });
    let jobs = ["kernel", "initrd"].map(|what| job(&home, &server, what));
    let lines = Fetcher::with(&server.url, patience(1)).unwrap().files(&jobs).unwrap();
    assert!(lines[0].starts_with("kernel  0 KiB in ") && lines[1].starts_with("initrd  0 KiB in "), "{lines:?}");
    assert_eq!(fs::read(home.path("initrd")).unwrap(), b"/initrd");
}

#[test]
fn when_one_fails_those_after_it_are_given_up() {
    let home = Home::new();
    let server = Server::new(|request, stream| match request.path() {
        "/kernel" => head(stream, "404 Not Found", &["Content-Length: 0"]),
        _ => {
            head(stream, "200 OK", &["Content-Length: 4000000000"]);
            // For ever, if nobody goes.
            while stream.write_all(&[0; 4096]).is_ok() {}
        }
    });
    let jobs = ["kernel", "initrd"].map(|what| job(&home, &server, what));
    let failure = Fetcher::with(&server.url, patience(1)).unwrap().files(&jobs).unwrap_err();
    assert!(failure.to_string().contains("/kernel is not there"), "{failure}");
    assert!(home.files().is_empty(), "{:?}", home.files());
    // When both fail, it is the first that is told, however late it is: here after the second has been answered.
    let (answered, pages) = (Meeting::default(), b"<html>");
    let server = Server::new(move |request, stream| {
        if request.path() == "/kernel" {
            answered.of(2);
        }
        whole(stream, request, &[], pages);
        if request.path() == "/initrd" {
            answered.of(2);
        }
    });
    let jobs = ["kernel", "initrd"].map(|what| job(&home, &server, what));
    let failure = Fetcher::with(&server.url, patience(1)).unwrap().files(&jobs).unwrap_err();
    assert!(failure.to_string().contains("/kernel is a web page, not the kernel"), "{failure}");
    assert!(home.files().is_empty(), "{:?}", home.files());
}

#[test]
fn a_cache_without_space_is_told() {
    let home = Home::new();
    let server = Server::of(&[("kernel", &[1; 100_000])]);
    let job = Job { to: PathBuf::from("/dev/fd/none/kernel"), ..job(&home, &server, "kernel") };
    let failure = Fetcher::with(&server.url, patience(3)).unwrap().files(&[job]).unwrap_err();
    assert!(failure.to_string().contains("/kernel can't be stored"), "{failure}");
    assert!(server.asked().is_empty());
}

const TREE: [&str; 2] = ["debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz"];

#[test]
fn proxies_come_from_the_environment() {
    let home = Home::new();
    let proxy = Server::new(|request, stream| {
        let found =
            request.path().starts_with("http://tree.invalid/") && TREE.iter().any(|p| request.path().ends_with(p));
        let status = if found { "200 OK" } else { "404 Not Found" };
        head(stream, status, &["Content-Length: 0"]);
    });
    let run = |variables: &[(&str, &str)], url: &str| {
        let mut command = home.command(&install(&["--location", url, "--print-xml", "1"]));
        command.envs(variables.iter().copied());
        command.output().unwrap()
    };
    // Nobody but the proxy knows that name.
    let output = run(&[("http_proxy", &proxy.url)], "http://tree.invalid/");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = proxy.asked();
    assert!(asked.iter().all(|request| request.path().starts_with("http://tree.invalid/")), "{asked:?}");
    assert!(!asked.is_empty());
    // An exception goes straight, to nowhere.
    let output = run(&[("http_proxy", &proxy.url), ("no_proxy", "other,tree.invalid")], "http://tree.invalid/");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(proxy.asked().len(), asked.len());
    // One for https is asked for a way through; this one has none.
    let ways = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", ways.local_addr().unwrap());
    let seen = std::thread::spawn(move || {
        let (mut stream, _) = ways.accept().unwrap();
        let mut line = [0; 32];
        stream.read_exact(&mut line).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
        String::from_utf8_lossy(&line).into_owned()
    });
    let output = run(&[("https_proxy", &address)], "https://tree.invalid/");
    assert_eq!(output.status.code(), Some(1));
    assert!(seen.join().unwrap().starts_with("CONNECT tree.invalid:443 HTTP/1."));
}

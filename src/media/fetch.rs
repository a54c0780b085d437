//! Downloads over http and https: to a temporary name, checked, then renamed.
//!
//! Bars are drawn on a terminal only; a finished download leaves one line. Proxies come from the environment.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::StatusCode;
use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::redirect::Policy;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Status};

/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// How long a connection may take, and how long no byte may come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest text file that is read whole (checksum lists).
const LONGEST_TEXT: u64 = 8 << 20;

/// Fetches files.
pub struct Fetcher(Client);

fn chain(error: &dyn std::error::Error, url: &str) -> Failure {
    Failure::new(Status::Failed, format!("{url} can't be fetched")).because(error)
}

fn refusal(error: &reqwest::Error, url: &str) -> Failure {
    let failure = chain(&error, url);
    if error.is_redirect() {
        failure.advise("The server sends in circles. Name the folder that it should lead to.")
    } else if error.is_timeout() {
        failure.advise(format!("No answer within {} s: is the address right, is a proxy needed?", PATIENCE.as_secs()))
    } else if error.is_connect() && url.starts_with("https:") {
        failure
            .advise("Is the address right? A proxy is taken from http_proxy and https_proxy.")
            .advise("Does the system know certificate authorities (package ca-certificates)?")
    } else if error.is_connect() {
        failure.advise("Is the address right? A proxy is taken from http_proxy and https_proxy.")
    } else {
        failure
    }
}

fn client() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(PATIENCE)
        .timeout(None)
        .redirect(Policy::limited(REDIRECTS))
}

fn no_client(error: &reqwest::Error) -> Failure {
    Failure::new(Status::Failed, "downloads can't be set up").because(error)
}

impl Fetcher {
    /// Makes a fetcher for a tree at `url`.
    ///
    /// # Errors
    /// When it is an https address and this host has no certificates to judge servers by.
    pub fn new(url: &str) -> Result<Self, Failure> {
        // A second call finds it installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match client().build() {
            Ok(client) => Ok(Self(client)),
            // Plain http needs none. A redirect to https then fails by itself: nobody is trusted.
            Err(_) if url.starts_with("http://") => {
                client().tls_certs_only([]).build().map(Self).map_err(|e| no_client(&e))
            }
            Err(error) => Err(no_client(&error).advise("Install certificates (the package ca-certificates).")),
        }
    }

    fn get(&self, url: &str) -> Result<Option<Response>, Failure> {
        let response = self.0.get(url).send().map_err(|e| refusal(&e, url))?;
        match response.status() {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(None),
            status => Err(Failure::new(Status::Failed, format!("{url} can't be fetched"))
                .why(format!("the server answered {status}"))),
        }
    }

    /// Whether there is such a file; a server that forbids it hasn't got it for us.
    ///
    /// # Errors
    /// When the server can't be reached or fails.
    pub fn exists(&self, url: &str) -> Result<bool, Failure> {
        let response = self.0.head(url).send().map_err(|e| refusal(&e, url))?;
        match response.status() {
            status if status.is_success() => Ok(true),
            // Some servers don't know HEAD.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(self.get(url)?.is_some()),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(false),
            status => Err(Failure::new(Status::Failed, format!("{url} can't be fetched"))
                .why(format!("the server answered {status}"))),
        }
    }

    /// A small text file; `None` when there is none.
    ///
    /// # Errors
    /// When the server can't be reached or fails.
    pub fn text(&self, url: &str) -> Result<Option<String>, Failure> {
        let Some(response) = self.get(url)? else { return Ok(None) };
        let mut bytes = Vec::new();
        response.take(LONGEST_TEXT).read_to_end(&mut bytes).map_err(|e| chain(&e, url))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Fetches a file to `to`, checked against `sum` where there is one. `what` names it for people.
    ///
    /// # Errors
    /// When it isn't there, is a web page, is cut short, or has another sum; nothing is at `to` then.
    pub fn file(&self, what: &str, url: &str, to: &Path, sum: Option<&str>) -> Result<(), Failure> {
        let begun = Instant::now();
        let missing =
            || Failure::new(Status::NotFound, format!("{url} is not there")).why("the server answered 404 Not Found");
        let mut response = self.get(url)?.ok_or_else(missing)?;
        let announced = response.content_length();
        let temporary = to.with_extension("part");
        let guard = Temporary(&temporary);
        let mut file = File::create(&temporary).map_err(|e| chain(&e, url))?;
        let bar = bar(what, announced);
        let outcome = copy(&mut response, &mut file, &bar);
        bar.finish_and_clear();
        let Copied { len, sum: found, start } = outcome.map_err(|e| cut_short(&e, url))?;
        if announced.is_some_and(|announced| announced != len) {
            let announced = announced.unwrap_or_default();
            return Err(Failure::new(Status::Failed, format!("{url} was cut short"))
                .why(format!("{len} of {announced} bytes came"))
                .advise("Try again."));
        }
        if is_web_page(&start) {
            return Err(Failure::new(Status::Failed, format!("{url} is a web page, not the {what}"))
                .advise("Name the folder that holds the install tree itself."));
        }
        check_sum(url, sum, &found)?;
        file.sync_all().and_then(|()| fs::rename(&temporary, to)).map_err(|e| chain(&e, url))?;
        std::mem::forget(guard);
        eprintln!("{what:<8}{} in {:.1} s{} {url}", size(len), begun.elapsed().as_secs_f64(), checked(sum));
        Ok(())
    }
}

struct Temporary<'a>(&'a Path);

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

fn checked(sum: Option<&str>) -> &'static str {
    if sum.is_some() { ", checksum right," } else { "" }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

fn bar(what: &str, len: Option<u64>) -> ProgressBar {
    let bar = match len {
        Some(len) => ProgressBar::new(len),
        None => ProgressBar::new_spinner(),
    };
    // Hidden by itself where standard error is no terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg:8}{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

struct Copied {
    len: u64,
    sum: String,
    start: Vec<u8>,
}

fn copy(from: &mut impl Read, to: &mut File, bar: &ProgressBar) -> io::Result<Copied> {
    let mut hash = Sha256::new();
    let mut copied = Copied { len: 0, sum: String::new(), start: Vec::new() };
    let mut chunk = vec![0; 128 << 10];
    loop {
        let got = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => chunk.get(..got).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(got)?;
        hash.update(got);
        copied.len += got.len() as u64;
        let room = 64usize.saturating_sub(copied.start.len()).min(got.len());
        copied.start.extend_from_slice(&got[..room]);
        bar.set_position(copied.len);
    }
    copied.sum = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(copied)
}

fn cut_short(error: &io::Error, url: &str) -> Failure {
    let failed = |how: &str| Failure::new(Status::Failed, format!("{url} {how}")).because(error);
    if error.kind() == io::ErrorKind::StorageFull {
        failed("can't be stored").advise("The cache's file system is full: free some space, or move it by KILN_HOME.")
    } else {
        failed("was cut short").advise("Try again.")
    }
}

fn is_web_page(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start).trim_start().to_ascii_lowercase();
    text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml")
}

fn check_sum(url: &str, wanted: Option<&str>, found: &str) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if wanted != found => {
            Err(Failure::new(Status::Verification, format!("{url} has a wrong checksum"))
                .why(format!("the tree's SHA256SUMS says {wanted}"))
                .why(format!("what came has {found}"))
                .advise("Try again; if it stays so, don't trust that server."))
        }
        _ => Ok(()),
    }
}

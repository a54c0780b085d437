//! Downloads over http and https: to a temporary name, checked, then renamed.
//!
//! What a server or the way to it may do for a moment is borne with: [`Patience`] says how long and how often. A file of
//! which a part has come goes on where it ended, if the server can show that it is still the same file
//! (`download.rs`). Bars are drawn on a terminal only; a finished download leaves one line. Proxies come from the
//! environment (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`).

mod download;

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressDrawTarget};
use parking_lot::{Condvar, Mutex};
use reqwest::StatusCode;
use reqwest::blocking::{Client, ClientBuilder, RequestBuilder, Response};
use reqwest::redirect::Policy;

use crate::failure::{Failure, Status};
use download::{Download, Trouble};

/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Longest text file that is read whole (checksum lists).
const LONGEST_TEXT: u64 = 8 << 20;

/// How much is borne with.
#[derive(Debug, Clone)]
pub struct Patience {
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// How long no byte may come.
    pub stall: Duration,
    /// How long to wait before each further try; so many there are. They begin anew when a good piece has come.
    pub pauses: Vec<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        let pauses = [500, 1000, 2000, 4000].map(Duration::from_millis).to_vec();
        Self { connect: Duration::from_secs(30), stall: Duration::from_secs(30), pauses }
    }
}

/// Fetches files.
pub struct Fetcher {
    client: Client,
    patience: Patience,
}

/// A file that is to be fetched.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it is, for people.
    pub what: &'static str,
    /// Its address.
    pub url: String,
    /// Where it goes.
    pub to: PathBuf,
    /// Its SHA-256 sum, where that is known: 64 small hexadecimal digits.
    pub sum: Option<String>,
}

fn chain(error: &dyn std::error::Error, url: &str) -> Failure {
    Failure::new(Status::Failed, format!("{url} can't be fetched")).because(error)
}

fn refusal(error: &reqwest::Error, url: &str, patience: &Patience) -> Failure {
    let failure = chain(&error, url);
    if error.is_redirect() {
        failure.advise("The server sends in circles. Name the folder that it should lead to.")
    } else if error.is_timeout() {
        let seconds = patience.connect.max(patience.stall).as_secs_f64();
        failure.advise(format!("No answer within {seconds} s: is the address right, is a proxy needed?"))
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

fn client(patience: &Patience) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(patience.connect)
        // Not of the whole: of the answer's beginning, and then of each read.
        .timeout(patience.stall)
        .redirect(Policy::limited(REDIRECTS))
}

fn no_client(error: &reqwest::Error) -> Failure {
    Failure::new(Status::Failed, "downloads can't be set up").because(error)
}

/// What a server may answer now and not a moment later (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4).
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn answered(url: &str, status: StatusCode) -> Failure {
    Failure::new(Status::Failed, format!("{url} can't be fetched")).why(format!("the server answered {status}"))
}

impl Fetcher {
    /// Makes a fetcher for a tree at `url`.
    ///
    /// # Errors
    /// When it is an https address and this host has no certificates to judge servers by.
    pub fn new(url: &str) -> Result<Self, Failure> {
        Self::with(url, Patience::default())
    }

    /// The same, with another patience.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(url: &str, patience: Patience) -> Result<Self, Failure> {
        // A second call finds it installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = match client(&patience).build() {
            Ok(client) => client,
            // Plain http needs none. A redirect to https then fails by itself: nobody is trusted.
            Err(_) if url.starts_with("http://") => {
                client(&patience).tls_certs_only([]).build().map_err(|e| no_client(&e))?
            }
            Err(error) => {
                return Err(no_client(&error).advise("Install certificates (the package ca-certificates)."));
            }
        };
        Ok(Self { client, patience })
    }

    // A look at what is there. An address that nobody listens at is told at once; what passes is waited for.
    fn look(&self, url: &str, request: impl Fn(&Client) -> RequestBuilder) -> Result<Response, Failure> {
        let mut pauses = self.patience.pauses.iter();
        loop {
            let failure = match request(&self.client).send() {
                Ok(response) if is_passing(response.status()) => answered(url, response.status()),
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() || error.is_redirect() || error.is_builder() => {
                    return Err(refusal(&error, url, &self.patience));
                }
                Err(error) => refusal(&error, url, &self.patience),
            };
            let Some(pause) = pauses.next() else { return Err(failure.why(tried(self.patience.pauses.len()))) };
            std::thread::sleep(*pause);
        }
    }

    fn get(&self, url: &str) -> Result<Option<Response>, Failure> {
        let response = self.look(url, |client| client.get(url))?;
        match response.status() {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(None),
            status => Err(answered(url, status)),
        }
    }

    /// Whether there is such a file; a server that forbids it hasn't got it for us.
    ///
    /// # Errors
    /// When the server can't be reached or fails.
    pub fn exists(&self, url: &str) -> Result<bool, Failure> {
        let response = self.look(url, |client| client.head(url))?;
        match response.status() {
            status if status.is_success() => Ok(true),
            // Some servers don't know HEAD.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(self.get(url)?.is_some()),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(false),
            status => Err(answered(url, status)),
        }
    }

    /// A small text file; `None` when there is none.
    ///
    /// # Errors
    /// When the server can't be reached or fails.
    pub fn text(&self, url: &str) -> Result<Option<String>, Failure> {
        let mut pauses = self.patience.pauses.iter();
        loop {
            let Some(response) = self.get(url)? else { return Ok(None) };
            let mut bytes = Vec::new();
            match (response.take(LONGEST_TEXT).read_to_end(&mut bytes), pauses.next()) {
                (Ok(_), _) => return Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
                (Err(_), Some(pause)) => std::thread::sleep(*pause),
                (Err(error), None) => return Err(chain(&error, url).why(tried(self.patience.pauses.len()))),
            }
        }
    }

    /// Fetches files at the same time, each checked against its sum where it has one. Gives a line about each, in their
    /// order.
    ///
    /// # Errors
    /// When one isn't there, is a web page, is cut short again and again, or has another sum: those after it are given up,
    /// those before it go on, so that it is always the first one's failure that is told. None of a failed one is left.
    pub fn files(&self, jobs: &[Job]) -> Result<Vec<String>, Failure> {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let ends: Vec<End> = jobs.iter().map(|_| End::default()).collect();
        let outcomes: Vec<Result<String, Trouble>> = std::thread::scope(|scope| {
            let run = |(number, job)| {
                let (bars, ends) = (&bars, ends.get(number..).unwrap_or_default());
                scope.spawn(move || {
                    let [end, later @ ..] = ends else { return Err(Trouble::GivenUp) };
                    let outcome = Download::new(self, job, bars, end).and_then(Download::run);
                    if outcome.is_err() {
                        later.iter().for_each(End::comes);
                    }
                    outcome
                })
            };
            let threads: Vec<_> = jobs.iter().enumerate().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Trouble::GivenUp))).collect()
        });
        let _ = bars.clear();
        let mut lines = Vec::new();
        let mut given_up = false;
        for outcome in outcomes {
            match outcome {
                Ok(line) => lines.push(line),
                Err(Trouble::Failed(failure)) => return Err(*failure),
                Err(Trouble::GivenUp) => given_up = true,
            }
        }
        if given_up {
            return Err(Failure::new(Status::Failed, "the downloads were given up"));
        }
        Ok(lines)
    }
}

fn tried(pauses: usize) -> String {
    format!("so it was at {} tries", pauses + 1)
}

/// Whether a download has come to its end, because one before it has failed.
#[derive(Default)]
struct End {
    has_come: Mutex<bool>,
    told: Condvar,
}

impl End {
    fn comes(&self) {
        *self.has_come.lock() = true;
        self.told.notify_all();
    }

    fn has_come(&self) -> bool {
        *self.has_come.lock()
    }

    /// Waits so long, or until the end. Says whether it is the end.
    fn within(&self, pause: Duration) -> bool {
        let mut has_come = self.has_come.lock();
        if !*has_come {
            self.told.wait_for(&mut has_come, pause);
        }
        *has_come
    }
}

fn is_stall(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
    error.kind() == io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout)
}

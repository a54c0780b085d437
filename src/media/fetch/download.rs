//! One download: tries, and what goes on from where the one before ended.
//!
//! A part is only added to with the server's word that it still has the same file: a strong entity tag, or else a date
//! of change that is older than the answer, sent back as If-Range (RFC 9110, 13.1.5 and 8.8.2.2). A server that has
//! another one by now, or can't go on in the middle, sends all of it, and the download begins anew.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::{CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE};
use sha2::{Digest, Sha256};

use super::{End, Fetcher, Job, answered, is_passing, is_stall, refusal, tried};
use crate::failure::{Failure, Status};
use crate::media::{LARGEST, NO_SPACE};

/// So many bytes in one try count as a way forward: the tries are counted anew.
const GOOD_PIECE: u64 = 1 << 20;
/// The first bytes, by which a web page is told from a kernel.
const START: usize = 64;

/// Why there is no file.
pub(super) enum Trouble {
    /// Its own failure.
    Failed(Box<Failure>),
    /// Another one's.
    GivenUp,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// How one try ends.
enum Outcome {
    Whole,
    /// It may go better the next time.
    Passing(Failure),
}

/// What a server said of the file that a part is of.
struct Known {
    /// Its validator, if it is one by which a part can be added to.
    validator: Option<String>,
    len: Option<u64>,
}

pub(super) struct Download<'a> {
    fetcher: &'a Fetcher,
    job: &'a Job,
    end: &'a End,
    bars: &'a MultiProgress,
    bar: ProgressBar,
    temporary: Temporary,
    file: File,
    hash: Sha256,
    len: u64,
    start: Vec<u8>,
    known: Option<Known>,
    begun: Instant,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        fetcher: &'a Fetcher,
        job: &'a Job,
        bars: &'a MultiProgress,
        end: &'a End,
    ) -> Result<Self, Trouble> {
        let temporary = Temporary(job.to.with_extension("part"));
        let file = File::create(&temporary.0).map_err(|e| unstored(&job.url, &e))?;
        let bar = bars.add(bar(job.what));
        let (hash, begun) = (Sha256::new(), Instant::now());
        Ok(Self { fetcher, job, end, bars, bar, temporary, file, hash, len: 0, start: vec![], known: None, begun })
    }

    /// Tries until the file is there or the patience ends. Gives the line that tells of it.
    pub(super) fn run(mut self) -> Result<String, Trouble> {
        let pauses = &self.fetcher.patience.pauses;
        let mut tries = 0;
        loop {
            let before = self.len;
            let failure = match self.one_try()? {
                Outcome::Whole => return self.finish(),
                Outcome::Passing(failure) => failure,
            };
            if self.len >= before.saturating_add(GOOD_PIECE) {
                tries = 0;
            }
            let Some(pause) = pauses.get(tries) else {
                return Err(failure.why(tried(pauses.len())).advise("Try again.").into());
            };
            tries += 1;
            let why = failure.causes.first().unwrap_or(&failure.what);
            let at = if self.len > 0 { format!(" after {}", size(self.len)) } else { String::new() };
            let line = format!("{:<8}once more in {:.1} s{at}: {why}", self.job.what, pause.as_secs_f64());
            self.bars.suspend(|| eprintln!("{line}"));
            if self.end.within(*pause) {
                return Err(Trouble::GivenUp);
            }
        }
    }

    fn one_try(&mut self) -> Result<Outcome, Trouble> {
        let url = &self.job.url;
        let mut request = self.fetcher.client.get(url);
        let validator = self.known.as_ref().and_then(|known| known.validator.clone());
        match validator {
            Some(validator) if self.len > 0 => {
                request = request.header(RANGE, format!("bytes={}-", self.len)).header(IF_RANGE, validator);
            }
            _ => self.begin_anew()?,
        }
        match request.send() {
            Ok(response) => self.take(response),
            Err(error) if error.is_redirect() || error.is_builder() => {
                Err(refusal(&error, url, &self.fetcher.patience).into())
            }
            Err(error) => Ok(Outcome::Passing(refusal(&error, url, &self.fetcher.patience))),
        }
    }

    fn take(&mut self, response: Response) -> Result<Outcome, Trouble> {
        let url = &self.job.url;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.goes_on(response.headers()) => {}
            // Of another length, or from elsewhere than was asked for.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.begin_anew()?;
                let what = Failure::new(Status::Failed, format!("{url} can't be fetched"));
                return Ok(Outcome::Passing(what.why("the server has another file by now")));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
                let what = Failure::new(Status::NotFound, format!("{url} is not there"));
                return Err(what.why(format!("the server answered {}", response.status())).into());
            }
            status if status.is_success() => {
                self.begin_anew()?;
                let headers = response.headers();
                self.known = Some(Known { validator: validator(headers), len: response.content_length() });
            }
            status if is_passing(status) => return Ok(Outcome::Passing(answered(url, status))),
            status => return Err(answered(url, status).into()),
        }
        let announced = self.known.as_ref().and_then(|known| known.len);
        if announced.is_some_and(|len| len > LARGEST) {
            return Err(self.too_large().into());
        }
        self.bar.set_length(announced.unwrap_or_default());
        self.copy(response, announced)
    }

    // A part is added to when its first byte is the next one, and the whole is as long as it was.
    fn goes_on(&self, headers: &HeaderMap) -> bool {
        let range = || {
            let (unit, rest) = headers.get(CONTENT_RANGE)?.to_str().ok()?.split_once(' ')?;
            let (range, whole) = rest.split_once('/')?;
            let first: u64 = range.split_once('-')?.0.trim().parse().ok()?;
            let known = self.known.as_ref()?.len;
            let same = whole == "*" || known.is_none() || whole.parse().ok() == known;
            (unit == "bytes" && same).then_some(first)
        };
        self.len > 0 && range() == Some(self.len)
    }

    fn begin_anew(&mut self) -> Result<(), Trouble> {
        let rewound = self.file.set_len(0).and_then(|()| self.file.rewind());
        rewound.map_err(|e| unstored(&self.job.url, &e))?;
        (self.hash, self.len, self.known) = (Sha256::new(), 0, None);
        self.start.clear();
        self.bar.set_position(0);
        Ok(())
    }

    fn copy(&mut self, mut from: Response, announced: Option<u64>) -> Result<Outcome, Trouble> {
        let mut chunk = vec![0; 128 << 10];
        loop {
            if self.end.has_come() {
                return Err(Trouble::GivenUp);
            }
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(got) => self.store(chunk.get(..got).unwrap_or_default())?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(Outcome::Passing(self.interrupted(&e, announced))),
            }
        }
        match announced {
            Some(announced) if announced != self.len => Ok(Outcome::Passing(self.cut_short(announced))),
            _ => Ok(Outcome::Whole),
        }
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if self.len.saturating_add(bytes.len() as u64) > LARGEST {
            return Err(self.too_large().into());
        }
        self.file.write_all(bytes).map_err(|e| unstored(&self.job.url, &e))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        let room = START.saturating_sub(self.start.len()).min(bytes.len());
        self.start.extend_from_slice(&bytes[..room]);
        self.bar.set_position(self.len);
        Ok(())
    }

    fn too_large(&self) -> Failure {
        let Job { what, url, .. } = self.job;
        Failure::new(Status::Failed, format!("{url} can't be the {what}")).why("it is larger than 4 GiB")
    }

    fn cut_short(&self, announced: u64) -> Failure {
        Failure::new(Status::Failed, format!("{} was cut short", self.job.url))
            .why(format!("{} of {announced} bytes came", self.len))
    }

    fn interrupted(&self, error: &io::Error, announced: Option<u64>) -> Failure {
        if is_stall(error) {
            let seconds = self.fetcher.patience.stall.as_secs_f64();
            return Failure::new(Status::Failed, format!("{} can't be fetched", self.job.url))
                .why(format!("no byte came for {seconds} s"))
                .because(error);
        }
        let failure = match announced {
            Some(announced) => self.cut_short(announced),
            None => Failure::new(Status::Failed, format!("{} was cut short", self.job.url)),
        };
        failure.because(error)
    }

    fn finish(self) -> Result<String, Trouble> {
        let Job { what, url, to, sum } = self.job;
        self.bar.finish_and_clear();
        if is_web_page(&self.start) {
            return Err(Failure::new(Status::Failed, format!("{url} is a web page, not the {what}"))
                .advise("Name the folder that holds the install tree itself.")
                .into());
        }
        let found: String = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        check_sum(url, sum.as_deref(), &found)?;
        self.file.sync_all().and_then(|()| self.temporary.publish(to)).map_err(|e| unstored(url, &e))?;
        let checked = if sum.is_some() { ", checksum right," } else { "" };
        Ok(format!("{what:<8}{} in {:.1} s{checked} {url}", size(self.len), self.begun.elapsed().as_secs_f64()))
    }
}

// A weak tag can't be sent back; a date tells only what is older than it.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match text(ETAG) {
        Some(tag) => (!tag.starts_with("W/")).then_some(tag),
        None => text(LAST_MODIFIED).filter(|changed| text(DATE).is_some_and(|now| now != *changed)),
    }
}

/// The file under its temporary name, gone with this.
struct Temporary(PathBuf);

impl Temporary {
    fn publish(self, to: &Path) -> io::Result<()> {
        fs::rename(&self.0, to)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After it has been published there is none.
        let _ = fs::remove_file(&self.0);
    }
}

fn unstored(url: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(Status::Failed, format!("{url} can't be stored")).because(error);
    match error.kind() {
        io::ErrorKind::StorageFull => failure.advise(NO_SPACE),
        _ => failure,
    }
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

fn bar(what: &str) -> ProgressBar {
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg:8}{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

fn is_web_page(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start).trim_start().to_ascii_lowercase();
    text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml")
}

fn check_sum(url: &str, wanted: Option<&str>, found: &str) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if wanted != found => {
            Err(Failure::new(Status::Verification, format!("{url} has a wrong checksum"))
                .why(format!("the tree's own list says {wanted}"))
                .why(format!("what came has {found}"))
                .advise("Try again; if it stays so, don't trust that server."))
        }
        _ => Ok(()),
    }
}

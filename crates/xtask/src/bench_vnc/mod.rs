//! `cargo xtask bench vnc`: bytes and processor time of our VNC server beside QEMU's, for the same pictures and the same
//! client, which asks for the next update when it has taken the last one in.
//!
//! Each picture is drawn when the client has the one before, so nothing is skipped. What QEMU spends while it is drawn to is
//! taken off, with what its VNC server happens to do at that time.

mod story;
mod subject;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use kiln_rfb::viewer::Viewer;

use crate::cargo::cargo;

use story::{STORIES, Story};
use subject::Subject;

/// Encodings (RFC 6143, 7.7) beside CopyRect.
const ENCODINGS: [(&str, i32); 2] = [("ZRLE", 16), ("Hextile", 5)];
const COPY_RECT: i32 = 1;
const DESKTOP_SIZE: i32 = -223;

/// A stream that counts what comes.
struct Counted {
    stream: UnixStream,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(to)?;
        self.bytes += got as u64;
        Ok(got)
    }
}

impl Write for Counted {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.write(from)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[derive(Clone, Copy)]
struct Sample {
    bytes: f64,
    seconds: f64,
}

pub(crate) fn run(runs: usize, only: &str) -> Result<ExitCode> {
    let folder = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = canvas().and_then(|program| compare(&program, &folder, runs, only));
    let _ = std::fs::remove_dir_all(&folder);
    outcome.map(|()| ExitCode::SUCCESS)
}

fn canvas() -> Result<PathBuf> {
    let words = ["build", "--release", "--quiet", "--package", "kiln-rfb", "--example", "canvas"];
    if !cargo().args(words).status().context("running cargo")?.success() {
        bail!("building canvas failed");
    }
    let target = std::env::current_exe()?;
    let target = target.parent().and_then(Path::parent).context("no target folder")?;
    Ok(target.join("release/examples/canvas"))
}

fn compare(program: &Path, folder: &Path, runs: usize, only: &str) -> Result<()> {
    let version = Command::new("qemu-system-x86_64").arg("--version").output().context("running QEMU")?;
    println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default());
    println!("{}x{}, 32 bits; medians of {runs}\n", story::WIDTH, story::HEIGHT);
    println!(
        "{:<32}{:>12}{:>12}{:>9}{:>11}{:>11}{:>9}",
        "", "kiln KiB", "QEMU KiB", "ratio", "kiln s", "QEMU s", "ratio"
    );
    for (name, story) in STORIES.into_iter().filter(|(name, _)| name.contains(only)) {
        for (encoding, number) in ENCODINGS {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..runs {
                ours.push(watched(&mut Subject::canvas(program, folder)?, story, number)?);
                theirs.push(watched(&mut Subject::qemu(folder)?, story, number)?);
            }
            let [ours, theirs] = [ours, theirs].map(|samples| Sample {
                bytes: median(samples.iter().map(|s| s.bytes).collect()),
                seconds: median(samples.iter().map(|s| s.seconds).collect()),
            });
            println!(
                "{:<32}{:>12.0}{:>12.0}{:>9.3}{:>11.3}{:>11.3}{:>9.3}",
                format!("{name}, {encoding}"),
                ours.bytes / 1024.0,
                theirs.bytes / 1024.0,
                ours.bytes / theirs.bytes,
                ours.seconds,
                theirs.seconds,
                ours.seconds / theirs.seconds
            );
        }
    }
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A whole story with a client that sees each picture.
fn watched(subject: &mut Subject, story: Story, encoding: i32) -> Result<Sample> {
    let stream = Counted { stream: subject.connect()?, bytes: 0 };
    let mut viewer = Viewer::connect(stream, None).context("connecting")?;
    viewer.set_encodings(&[COPY_RECT, encoding, DESKTOP_SIZE])?;
    // The screen as it is before the story: black.
    sees(&mut viewer, &vec![0; story::WIDTH * story::HEIGHT], false)?;
    let (bytes, seconds) = (viewer.stream_mut().bytes, subject.seconds()?);
    story(&mut |picture| {
        subject.draw(picture)?;
        sees(&mut viewer, picture, true)
    })?;
    Ok(Sample { bytes: (viewer.stream_mut().bytes - bytes) as f64, seconds: subject.seconds()? - seconds })
}

fn sees(viewer: &mut Viewer<Counted>, picture: &[u32], incremental: bool) -> Result<()> {
    let mut incremental = incremental;
    while viewer.pixels() != picture || !incremental {
        viewer.request(incremental)?;
        viewer.update()?;
        incremental = true;
    }
    Ok(())
}

//! A host that fails at any moment of what concerns several images: commit, rebase, convert. Whatever fails, the top of
//! the chain reads what it read, its base is sound, and done once more on the same files it comes to its end.

use std::ffi::OsString;
use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::commit::{Commit, commit};
use kiln_image::convert::{Before, Convert, Joined, convert};
use kiln_image::qcow2::Create;
use kiln_image::qcow2::check::check;
use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::rebase::{Onto, Rebase, rebase};
use kiln_image::testing::{CALLS, Call, Faulty, Trouble};
use kiln_image::{BlockDevice, Error, Format, Image, Open};

const SIZE: u64 = 64 << 10;

/// Files of a chain: a base, one on top of it, and another base.
struct Chain {
    base: Arc<Faulty>,
    top: Arc<Faulty>,
    other: Arc<Faulty>,
}

/// Writes bytes at some places of an image.
fn scribble(image: &Image, seed: u8, step: u64) {
    for at in (u64::from(seed) * 512..SIZE - 3000).step_by(step as usize) {
        image.write_at(&[IoSlice::new(&[seed ^ (at >> 9) as u8; 2048])], at).unwrap();
    }
    image.close().unwrap();
}

fn on(disk: &Arc<Faulty>, backing: Option<Arc<Image>>, writes: bool) -> Result<Arc<Image>, Error> {
    let format = Some(Format::Qcow2);
    Image::over(disk.clone(), None, backing, if writes { Open::writing(format) } else { Open::reading(format) })
}

impl Chain {
    fn new() -> Self {
        let make = |backing: Option<&str>| {
            let disk = Arc::new(Faulty::of(Vec::new()));
            let backing = backing.map(|name| (OsString::from(name), Some("qcow2".to_owned())));
            format(disk.clone(), None, &Create { size: SIZE, cluster_bits: 12, backing, ..Create::default() }).unwrap();
            disk
        };
        let chain = Self { base: make(None), top: make(Some("base")), other: make(None) };
        scribble(&on(&chain.base, None, true).unwrap(), 1, 9000);
        scribble(&on(&chain.other, None, true).unwrap(), 5, 15_000);
        scribble(&chain.open().unwrap(), 3, 13_000);
        chain
    }

    // The top, on what it says it lies on.
    fn open(&self) -> Result<Arc<Image>, Error> {
        let below = match read_header(self.top.as_ref())?.backing {
            None => None,
            Some(name) if name == "base" => Some(on(&self.base, None, false)?),
            Some(_) => Some(on(&self.other, None, false)?),
        };
        on(&self.top, below, true)
    }

    fn files(&self) -> [&Arc<Faulty>; 3] {
        [&self.base, &self.top, &self.other]
    }
}

fn contents(image: &Image) -> Vec<u8> {
    let mut bytes = vec![7; image.len() as usize];
    image.read_at(&mut [std::io::IoSliceMut::new(&mut bytes)], 0).unwrap();
    bytes
}

type Verb = fn(&Chain) -> Result<(), Error>;

fn commits(chain: &Chain) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    let how = Commit { depth: 1, keep: false, rate_limit: None, stop: &stop, progress: &|_, _| {} };
    commit(&how, chain.open()?.as_ref(), on(&chain.base, None, true)?.as_ref()).map(|ended| assert!(ended))
}

fn rebases(chain: &Chain) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    let other = on(&chain.other, None, false)?;
    let onto = Some(Onto { image: other.as_ref(), name: "other".into() });
    let how = Rebase { onto, compress: false, stop: &stop, progress: &|_, _| {} };
    rebase(&how, chain.open()?.as_ref()).map(|ended| assert!(ended))
}

// Into the other one, all of which is written over.
fn converts(chain: &Chain) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    let target = on(&chain.other, None, true)?;
    let how = Convert {
        source: &Joined(vec![chain.open()?]),
        before: Before::Unknown,
        sparse: 4096,
        in_place: true,
        offload: false,
        compress: false,
        salvage: false,
        workers: NonZeroUsize::new(1),
        rate_limit: None,
        stop: &stop,
        progress: &|_, _| {},
    };
    convert(&how, &target)?;
    target.flush()?;
    target.close()
}

fn sound(disk: &Faulty, what: &str) {
    let header = read_header(disk).unwrap();
    let mut found = Vec::new();
    check(disk, &header, &mut |finding| found.push(finding)).unwrap();
    found.retain(|finding| finding.is_corruption);
    assert!(found.is_empty(), "{what}: {found:?}");
}

fn may_fail(name: &str, verb: Verb) -> usize {
    let whole = Chain::new();
    let want = contents(&whole.open().unwrap());
    let never = Trouble { call: Call::Read, after: usize::MAX, errno: 0, torn: 0, lasts: false };
    whole.files().into_iter().for_each(|file| file.fail(never));
    verb(&whole).unwrap();
    let mut faults = 0;
    for (number, file) in whole.files().into_iter().enumerate() {
        for (call, lasts) in CALLS.into_iter().flat_map(|call| [(call, false), (call, true)]) {
            for after in 0..file.calls(call) {
                let what = format!("{name}: {call:?} {after} of file {number}, lasting: {lasts}");
                let chain = Chain::new();
                let broken = chain.files()[number];
                let errno = if call == Call::Write { libc::ENOSPC } else { libc::EIO };
                broken.fail(Trouble { call, after, errno, torn: 700, lasts });
                let outcome = verb(&chain);
                assert!(broken.heal() > 0, "{what}: never got there");
                // Where holes are looked for, nothing depends on it.
                assert!(outcome.is_err() || call == Call::Read, "{what}: nobody heard of it");
                chain.files().into_iter().for_each(|file| sound(file, &what));
                assert!(contents(&chain.open().unwrap()) == want, "{what}: other contents");
                verb(&chain).unwrap_or_else(|error| panic!("{what}: once more: {error}"));
                assert!(contents(&chain.open().unwrap()) == want, "{what}: other contents once more");
                if name == "convert" {
                    assert!(contents(&on(&chain.other, None, false).unwrap()) == want, "{what}: the copy differs");
                }
                faults += 1;
            }
        }
    }
    faults
}

#[test]
fn commit_rebase_and_convert_may_fail_anywhere() {
    let verbs: [(&str, Verb); 3] = [("commit", commits), ("rebase", rebases), ("convert", converts)];
    for (name, verb) in verbs {
        println!("{name}: {} faults", may_fail(name, verb));
    }
}

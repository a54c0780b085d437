//! Body of the fuzz target `disk_options`, which a seeded test runs as well: any command line is understood or refused.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Change, Dialect, Parsed, Request, VERBS, parse};
use crate::failure::Status;

/// What lines are made of: the input's bytes from 0x80 on are these, so that it gets far.
const WORDS: &[&str] = &[
    "raw",
    "qcow2",
    "vmdk",
    "-o",
    "-f",
    "-O",
    "-b",
    "-F",
    "-B",
    "-q",
    "-p",
    "-U",
    "-u",
    "-c",
    "-n",
    "-S",
    "-t",
    "-T",
    "-m",
    "-W",
    "-l",
    "-r",
    "-d",
    "-a",
    "-s",
    "-C",
    "-h",
    "--",
    "--output",
    "--out",
    "json",
    "human",
    "--backing-chain",
    "--shrink",
    "--preallocation",
    "--start-offset",
    "--max-length",
    "--salvage",
    "--target-is-zero",
    "--force",
    "--image-opts",
    "--object",
    "--help",
    "snapshot.id=",
    "snapshot.name=",
    "size=",
    "preallocation=",
    "cluster_size=",
    "refcount_bits=",
    "lazy_refcounts",
    "compression_type=",
    "extended_l2=",
    "data_file=",
    "data_file_raw=",
    "compat=",
    "backing_file=",
    "backing_fmt=",
    "nocow",
    "extent_size_hint=",
    "metadata",
    "falloc",
    "full",
    "off",
    "on",
    "zlib",
    "zstd",
    "1.1",
    "0.10",
    "v2",
    "v3",
    "1G",
    "64k",
    "0x200",
    "0777",
    "1.5",
    "9223372036854775807",
    "18446744073709551616",
    "8E",
    "none",
    "writeback",
    "unsafe",
    "all",
    "leaks",
    "create",
    "convert",
    "resize",
    "rebase",
    "measure",
    "help",
    "?",
    "json:{",
    "nbd:x",
    "file:",
    "./",
    "\u{2212}",
    "\u{2013}",
    "é",
    "=",
    ",",
    ",,",
    "+",
    "-",
];

// A line feed ends a word, 1 is a byte that is no UTF-8.
fn line(bytes: &[u8]) -> Vec<OsString> {
    let mut words = vec![Vec::new()];
    for byte in bytes {
        let Some(word) = words.last_mut() else { continue };
        match byte {
            b'\n' => words.push(Vec::new()),
            1 => word.push(0xff),
            0 => {}
            byte => match byte.checked_sub(0x80).and_then(|index| WORDS.get(usize::from(index))) {
                Some(text) => word.extend(text.bytes()),
                None => word.push(*byte),
            },
        }
    }
    words.into_iter().map(OsString::from_vec).collect()
}

/// A line in either dialect, mostly of a verb that there is. No file is touched.
pub fn fuzz_line(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let dialect = if kind & 1 == 0 { Dialect::Kiln } else { Dialect::QemuImg };
    let mut args = line(rest);
    if let Some(verb) = VERBS.get(usize::from(kind >> 1)) {
        args.insert(0, verb.about.name.into());
    }
    match parse(dialect, &args) {
        Ok(Parsed::Print(text)) => assert!(text.ends_with('\n'), "{args:?}: {text:?}"),
        Ok(Parsed::Do(request)) => judge(&request),
        Err(failure) => {
            // qemu-img's compare has a status for values, and another for the line itself.
            let verb = args.iter().find(|arg| *arg != "--");
            let compares = dialect == Dialect::QemuImg && verb.is_some_and(|verb| verb == "compare");
            assert!(failure.status == Status::Usage || (compares && failure.status == Status::Failed), "{failure}");
            assert!(!failure.what.is_empty() && !failure.what.contains('\n'), "{args:?}: {failure:?}");
        }
    }
}

// Numbers are in the ranges that what follows relies on.
fn judge(request: &Request) {
    const MOST: u64 = i64::MAX as u64;
    match request {
        Request::Create(create) => assert!(create.new.size.is_none_or(|size| size <= MOST), "{request:?}"),
        Request::Resize(resize) => {
            let (Change::To(by) | Change::Grow(by) | Change::Shrink(by)) = resize.change;
            assert!(by <= MOST, "{request:?}");
        }
        Request::Convert(convert) => {
            assert!((1..=16).contains(&convert.workers), "{request:?}");
            assert!(convert.sparse.is_none_or(|size| size % 512 == 0), "{request:?}");
            assert!(!convert.sources.is_empty() && !convert.sources.contains(&convert.file), "{request:?}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_line_is_understood_or_refused() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) % limit
        };
        for _ in 0..60_000 {
            let mut bytes = vec![next(24) as u8];
            for _ in 0..next(24) {
                match next(4) {
                    0 => bytes.push(b'\n'),
                    1 => bytes.push(next(128) as u8),
                    _ => bytes.push(0x80 + next(WORDS.len() as u64) as u8),
                }
            }
            if std::panic::catch_unwind(|| fuzz_line(&bytes)).is_err() {
                panic!("{:?}", line(&bytes));
            }
        }
    }

    #[test]
    fn lines_reach_requests() {
        let words = |text: &str| WORDS.iter().position(|word| *word == text).unwrap() as u8 + 0x80;
        let bytes = [b"-f\n".as_slice(), &[words("qcow2")], b"\nx\n", &[words("1G")]].concat();
        assert!(matches!(parse(Dialect::Kiln, &[vec!["create".into()], line(&bytes)].concat()), Ok(Parsed::Do(_))));
    }
}

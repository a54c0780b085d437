//! The files that argument lists are about: made once by the real qemu-img, copied for each run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub const QEMU_IMG: &str = "qemu-img";

/// Files, and what must lie beside each of them.
const FILES: &[(&str, &[&str])] = &[
    ("disk.raw", &[]),
    ("hole.raw", &[]),
    ("odd.raw", &[]),
    ("short.raw", &[]),
    ("text.txt", &[]),
    ("base.qcow2", &[]),
    ("over.qcow2", &["base.qcow2"]),
    ("top.qcow2", &["over.qcow2", "base.qcow2"]),
    ("snaps.qcow2", &[]),
    ("empty.qcow2", &[]),
    ("v2.qcow2", &[]),
    ("small.qcow2", &[]),
    ("large.qcow2", &[]),
    ("ref1.qcow2", &[]),
    ("ref64.qcow2", &[]),
    ("lazy.qcow2", &[]),
    ("zlib.qcow2", &[]),
    ("zstd.qcow2", &[]),
    ("ext.qcow2", &[]),
    ("prealloc.qcow2", &[]),
    ("data.qcow2", &["data.raw"]),
    ("data.raw", &[]),
    ("onraw.qcow2", &["disk.raw"]),
    ("onshort.qcow2", &["short.raw"]),
    ("onlong.qcow2", &["base.qcow2"]),
    ("orphan.qcow2", &[]),
    ("loop.qcow2", &[]),
    ("leak.qcow2", &[]),
    ("corrupt.qcow2", &[]),
    ("nomagic.qcow2", &[]),
    ("version9.qcow2", &[]),
    ("unknown.qcow2", &[]),
    ("dirty.qcow2", &[]),
    ("cut.qcow2", &[]),
    ("farl1.qcow2", &[]),
    ("a,b.qcow2", &[]),
    ("x:y.raw", &[]),
];

/// All that the real one can be asked to read. A disk that lies below itself keeps it busy for ever.
pub fn images() -> Vec<&'static str> {
    FILES.iter().map(|(name, _)| *name).filter(|name| !name.contains([':', ',']) && *name != "loop.qcow2").collect()
}

/// A folder with all of them.
pub struct Stage {
    folder: TempDir,
}

impl Stage {
    pub fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        stage.raw();
        stage.qcow2();
        stage.chains();
        stage.damaged();
        for (name, _) in FILES {
            assert!(stage.path(name).exists(), "{name}");
        }
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The files that a list's words speak of, with what lies below them.
    pub fn named(&self, words: &[String]) -> BTreeSet<&'static str> {
        let spoken = |file: &str| {
            let escaped = file.replace(',', ",,");
            words.iter().any(|word| word.contains(file) || word.contains(&escaped))
        };
        let named = FILES.iter().filter(|(file, _)| spoken(file));
        named.flat_map(|(file, below)| [*file].into_iter().chain(below.iter().copied())).collect()
    }

    /// A fresh folder with copies of these files.
    pub fn copy(&self, files: &BTreeSet<&str>) -> TempDir {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for file in files {
            copy_sparse(&self.path(file), &folder.path().join(file));
        }
        folder
    }

    fn raw(&self) {
        self.write(
            "disk.raw",
            4 << 20,
            &[(0, 1, 4096), (65536, 2, 70_000), (1 << 20, 3, 1 << 20), (4_190_000, 4, 4304)],
        );
        self.write("hole.raw", 1 << 20, &[]);
        self.write("odd.raw", (1 << 20) + 100, &[(1_000_000, 5, 1000)]);
        self.write("short.raw", 1 << 20, &[(0, 6, 65536)]);
        self.write("x:y.raw", 65536, &[(0, 7, 512)]);
        fs::write(self.path("text.txt"), "no disk at all\n").unwrap();
    }

    fn qcow2(&self) {
        let made = |name: &str, options: &str| {
            let options = if options.is_empty() { vec![] } else { vec!["-o", options] };
            self.img(&[&["convert", "-f", "raw", "-O", "qcow2"], &options[..], &["disk.raw", name]].concat());
        };
        made("base.qcow2", "");
        self.img(&["snapshot", "-c", "s1", "base.qcow2"]);
        made("snaps.qcow2", "");
        self.img(&["snapshot", "-c", "s1", "snaps.qcow2"]);
        self.io("snaps.qcow2", &["write -P 0x51 0 128k", "discard 1M 512k"]);
        self.img(&["snapshot", "-c", "s2", "snaps.qcow2"]);
        self.io("snaps.qcow2", &["write -P 0x52 64k 128k", "write -z 3M 64k"]);
        made("v2.qcow2", "compat=0.10");
        made("small.qcow2", "cluster_size=512");
        made("large.qcow2", "cluster_size=2M");
        made("ref1.qcow2", "refcount_bits=1");
        made("ref64.qcow2", "refcount_bits=64");
        made("lazy.qcow2", "lazy_refcounts=on");
        made("ext.qcow2", "extended_l2=on,cluster_size=128k");
        self.io("ext.qcow2", &["write -P 9 3M 4k", "write -z 65536 8k"]);
        made("data.qcow2", "data_file=data.raw,data_file_raw=on");
        made("a,b.qcow2", "");
        self.img(&["convert", "-c", "-O", "qcow2", "disk.raw", "zlib.qcow2"]);
        self.img(&["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "disk.raw", "zstd.qcow2"]);
        self.img(&["create", "-q", "-f", "qcow2", "empty.qcow2", "4M"]);
        self.img(&["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "prealloc.qcow2", "4M"]);
    }

    fn chains(&self) {
        let above = |name: &str, below: &str, format: &str, size: &[&str]| {
            self.img(&[&["create", "-q", "-f", "qcow2", "-b", below, "-F", format, name], size].concat());
        };
        above("over.qcow2", "base.qcow2", "qcow2", &[]);
        self.io("over.qcow2", &["write -P 0x61 128k 64k", "write -z 1M 64k", "write -P 0x62 2M 4k"]);
        above("top.qcow2", "over.qcow2", "qcow2", &[]);
        self.io("top.qcow2", &["write -P 0x71 3M 64k"]);
        above("onraw.qcow2", "disk.raw", "raw", &[]);
        self.io("onraw.qcow2", &["write -P 0x63 512k 64k"]);
        above("onshort.qcow2", "short.raw", "raw", &["4M"]);
        self.io("onshort.qcow2", &["write -P 0x64 2M 64k"]);
        above("onlong.qcow2", "base.qcow2", "qcow2", &["2M"]);
        self.io("onlong.qcow2", &["write -P 0x65 1M 64k"]);
        self.img(&["create", "-q", "-f", "qcow2", "-u", "-b", "missing.qcow2", "-F", "qcow2", "orphan.qcow2", "4M"]);
        self.img(&["create", "-q", "-f", "qcow2", "loop.qcow2", "4M"]);
        self.img(&["rebase", "-u", "-b", "loop.qcow2", "-F", "qcow2", "loop.qcow2"]);
    }

    fn damaged(&self) {
        let broken = |name: &str| {
            fs::copy(self.path("empty.qcow2"), self.path(name)).unwrap();
            self.io(name, &["write -P 0x41 0 128k"]);
            Poke(File::options().read(true).write(true).open(self.path(name)).unwrap())
        };
        // Field offsets are those of QEMU's docs/interop/qcow2.txt. Refcounts are 16 bits wide here.
        let leak = broken("leak.qcow2");
        let end = leak.0.metadata().unwrap().len().next_multiple_of(65536);
        leak.0.set_len(end + 65536).unwrap();
        leak.refcount(end / 65536, 1);
        let corrupt = broken("corrupt.qcow2");
        let l2 = corrupt.long(corrupt.long(40)) & 0x00ff_ffff_ffff_fe00;
        corrupt.refcount((corrupt.long(l2) & 0x00ff_ffff_ffff_fe00) / 65536, 0);
        broken("nomagic.qcow2").set(0, b"QFI\xfa");
        broken("version9.qcow2").set(4, &9_u32.to_be_bytes());
        broken("unknown.qcow2").set(72, &(1_u64 << 63).to_be_bytes());
        broken("dirty.qcow2").set(72, &1_u64.to_be_bytes());
        broken("cut.qcow2").0.set_len(100).unwrap();
        broken("farl1.qcow2").set(40, &(1_u64 << 40).to_be_bytes());
    }

    fn write(&self, name: &str, len: u64, runs: &[(u64, u8, usize)]) {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(len).unwrap();
        for (at, byte, count) in runs {
            // No two sectors are the same, so that a sector in the wrong place shows.
            let bytes: Vec<u8> = (0..*count).map(|i| byte.wrapping_add((i / 512) as u8).max(1)).collect();
            file.write_all_at(&bytes, *at).unwrap();
        }
    }

    fn img(&self, args: &[&str]) {
        run(Command::new(QEMU_IMG).args(args).current_dir(self.folder.path()));
    }

    fn io(&self, file: &str, commands: &[&str]) {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        run(Command::new("qemu-io").args(["-f", "qcow2"]).args(commands).arg(file).current_dir(self.folder.path()));
    }
}

struct Poke(File);

impl Poke {
    fn set(&self, at: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, at).unwrap();
    }

    fn long(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    }

    // Of a cluster that the first refcount block counts.
    fn refcount(&self, cluster: u64, count: u16) {
        self.set(self.long(self.long(48)) + 2 * cluster, &count.to_be_bytes());
    }
}

fn run(command: &mut Command) {
    let told = command.stdin(Stdio::null()).output().expect("apt install qemu-utils");
    assert!(told.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told.stderr));
}

/// A copy in which all blocks of zeros are holes, so that both runs begin with the same ones.
fn copy_sparse(from: &Path, to: &Path) {
    const BLOCK: usize = 4096;
    let bytes = fs::read(from).unwrap();
    let mut to = File::create(to).unwrap();
    to.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            to.write_all_at(block, (number * BLOCK) as u64).unwrap();
        }
    }
    to.flush().unwrap();
}

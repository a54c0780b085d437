//! What a history begins with: an image that kiln has made, or QEMU.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Create, Options, Qcow2};
use kiln_image::storage::Storage;
use kiln_image::testing::{Memory, Noise};
use kiln_image::{BlockDevice, Format};

use crate::history::{SECTOR, Sectors, bytes_of};
use crate::scene::Scene;

/// An image and what is in it.
#[derive(Clone)]
pub struct Start {
    pub image: Vec<u8>,
    /// The external data file.
    pub data: Option<Vec<u8>>,
    /// What it lies on.
    pub ground: Option<Ground>,
    pub sectors: Sectors,
    /// By name.
    pub snapshots: BTreeMap<String, Sectors>,
    pub what: String,
}

/// A disk to lie on.
#[derive(Clone)]
pub struct Ground {
    pub name: OsString,
    pub format: Format,
    pub bytes: Vec<u8>,
    /// What its snapshot holds.
    pub snapshot: Option<Sectors>,
}

/// A ground of about so many sectors, which hold numbers behind `first`.
pub fn ground(name: &str, first: u64, about: usize, noise: &mut Noise) -> Ground {
    let about = about as u64;
    let len = (about / 2 + noise.below(about)).max(8);
    let sectors: Sectors = (0..len).map(|n| if n % 16 < 3 { 0 } else { first + n + 1 }).collect();
    ground_of(name, &sectors, noise)
}

fn ground_of(name: &str, sectors: &[u64], noise: &mut Noise) -> Ground {
    let name = OsString::from(name);
    if noise.below(2) == 0 {
        return Ground { name, format: Format::Raw, bytes: bytes_of(sectors), snapshot: None };
    }
    let create = Create { size: (sectors.len() * SECTOR) as u64, data_file: None, ..kind(noise) };
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    format(storage.clone(), None, &create).unwrap();
    let header = read_header(storage.as_ref()).unwrap();
    let image = Qcow2::open(storage.clone(), header, Options::default()).unwrap();
    image.write_at(&[IoSlice::new(&bytes_of(sectors))], 0).unwrap();
    let wants = create.refcount_order > 0 && noise.below(3) == 0;
    let snapshot = wants.then(|| {
        image.create_snapshot("below", 1, 2).unwrap();
        sectors.to_vec()
    });
    image.close().unwrap();
    Ground { name, format: Format::Qcow2, bytes: bytes(storage.as_ref()), snapshot }
}

fn bytes(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; storage.len().unwrap() as usize];
    storage.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    bytes
}

fn kind(noise: &mut Noise) -> Create {
    // Large clusters are slow, and what goes wrong goes wrong in small ones, too.
    let cluster_bits = [9, 9, 9, 10, 10, 11, 12, 12, 13, 14, 14, 15, 16, 16, 17, 18, 19, 20, 21];
    let most = if noise.below(8) == 0 { cluster_bits.len() } else { 11 };
    let cluster_bits = cluster_bits[noise.below(most as u64) as usize];
    let version = if noise.below(3) == 0 { 2 } else { 3 };
    let refcount_order = if version == 2 { 4 } else { noise.below(7) as u32 };
    let extended_l2 = version == 3 && cluster_bits >= 14 && noise.below(2) == 0;
    let lazy_refcounts = version == 3 && noise.below(4) == 0;
    let data_file = (version == 3 && noise.below(8) == 0).then(|| ("data".into(), false));
    Create { version, cluster_bits, refcount_order, extended_l2, lazy_refcounts, data_file, ..Create::default() }
}

/// A new image of kiln's.
fn by_kiln(noise: &mut Noise) -> Start {
    let create = kind(noise);
    let sectors_per_cluster = 1u64 << (create.cluster_bits - 9);
    // Disks of large clusters have fewer of them, or copying these would take most of the time.
    let (least, more) = match create.cluster_bits {
        ..=11 => (6, 20),
        12..=13 => (4, 10),
        _ => (3, 4),
    };
    let len = (least + noise.below(more)) * sectors_per_cluster + noise.below(sectors_per_cluster);
    let mut sectors = vec![0; len.max(8) as usize];
    let mut create = Create { size: sectors.len() as u64 * 512, ..create };
    let ground = noise.next().is_multiple_of(2).then(|| {
        let below: Sectors = (0..sectors.len() as u64 / 2 + noise.below(9)).map(|n| (1 << 40) + n + 1).collect();
        let shared = below.len().min(sectors.len());
        sectors[..shared].copy_from_slice(&below[..shared]);
        let ground = ground_of("base", &below, noise);
        create.backing = Some((ground.name.clone(), Some(ground.format.name().to_owned())));
        ground
    });
    let image: Arc<dyn Storage> = Arc::new(Memory::default());
    let data = create.data_file.as_ref().map(|_| Arc::new(Memory::default()) as Arc<dyn Storage>);
    format(image.clone(), data.clone(), &create).unwrap();
    Start {
        image: bytes(image.as_ref()),
        data: data.map(|data| bytes(data.as_ref())),
        ground,
        sectors,
        snapshots: BTreeMap::new(),
        what: format!("{create:?}"),
    }
}

// The number of a sector that QEMU has filled with a byte.
fn number(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

struct Maker {
    scene: Scene,
    sectors: Sectors,
    snapshots: BTreeMap<String, Sectors>,
}

impl Maker {
    fn new(options: &str, sectors: usize) -> Self {
        let maker = Self { scene: Scene::new(), sectors: vec![0; sectors], snapshots: BTreeMap::new() };
        maker.qemu_img(&format!("create -q -f qcow2 -o {options} a {}", sectors * SECTOR));
        maker
    }

    fn run(&self, program: &str, arguments: &[&str]) -> std::process::Output {
        Command::new(program).args(arguments).current_dir(self.scene.path("")).output().unwrap()
    }

    fn qemu_img(&self, arguments: &str) {
        let output = self.run("qemu-img", &arguments.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn io(&self, more: &str, command: &str, start: usize, len: usize) {
        let command = format!("{command} {} {}", start * SECTOR, len * SECTOR);
        let mut arguments = vec!["-f", "qcow2", "-c", &command];
        if !more.is_empty() {
            arguments.extend(["-c", "flush", "-c", more]);
        }
        self.run("qemu-io", &[&arguments[..], &["a"]].concat());
    }

    fn write(mut self, byte: u8, start: usize, len: usize) -> Self {
        self.io("", &format!("write -P {byte}"), start, len);
        self.sectors[start..start + len].fill(number(byte));
        self
    }

    /// Writes and dies, so that the image stays marked as dirty.
    fn write_and_die(mut self, byte: u8, start: usize, len: usize) -> Self {
        self.io("sigraise 9", &format!("write -P {byte}"), start, len);
        self.sectors[start..start + len].fill(number(byte));
        self
    }

    fn zero(mut self, start: usize, len: usize) -> Self {
        self.io("", "write -z", start, len);
        self.sectors[start..start + len].fill(0);
        self
    }

    fn snapshot(mut self, name: &str) -> Self {
        self.qemu_img(&format!("snapshot -c {name} a"));
        self.snapshots.insert(name.into(), self.sectors.clone());
        self
    }

    fn also(self, arguments: &str) -> Self {
        self.qemu_img(arguments);
        self
    }

    fn done(self, what: &str) -> Start {
        let image = std::fs::read(self.scene.path("a")).unwrap();
        let (sectors, snapshots) = (self.sectors, self.snapshots);
        Start { image, data: None, ground: None, sectors, snapshots, what: format!("QEMU's {what}") }
    }
}

// Made once: QEMU takes its time.
fn by_qemu() -> &'static [Start] {
    static ALL: OnceLock<Vec<Start>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            Maker::new("cluster_size=4096", 200).write(1, 10, 60).zero(16, 24).write(2, 150, 50).done("plain one"),
            Maker::new("cluster_size=512,compat=0.10", 100)
                .write(1, 3, 70)
                .snapshot("q")
                .write(2, 5, 9)
                .done("old one"),
            Maker::new("cluster_size=512,refcount_bits=64", 90)
                .write(1, 0, 40)
                .snapshot("q1")
                .write(2, 20, 40)
                .snapshot("q2")
                .zero(30, 20)
                .done("one with snapshots"),
            Maker::new("cluster_size=16384,extended_l2=on", 300).write(1, 3, 90).zero(40, 5).done("extended one"),
            Maker::new("cluster_size=4096", 200)
                .write(1, 0, 120)
                .also("convert -c -O qcow2 -o cluster_size=4096 a b")
                .also("convert -c -O qcow2 -o cluster_size=4096 b a")
                .done("compressed one"),
            Maker::new("cluster_size=4096,lazy_refcounts=on", 200)
                .write(1, 0, 100)
                .write_and_die(2, 50, 100)
                .done("one that is dirty"),
            Maker::new("cluster_size=4096", 200)
                .write(1, 0, 100)
                .also("bitmap --add a b0")
                .also("bitmap --add -g 65536 a b1")
                .write(2, 30, 9)
                .done("one with bitmaps"),
            Maker::new("cluster_size=4096,refcount_bits=1", 200).write(1, 0, 100).done("one with refcounts of 1 bit"),
        ]
    })
}

pub fn start(noise: &mut Noise) -> Start {
    let all = by_qemu();
    match noise.below(6) {
        0 => all[noise.below(all.len() as u64) as usize].clone(),
        _ => by_kiln(noise),
    }
}

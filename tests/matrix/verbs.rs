//! The columns: what a tool does with an image that the other one has made.

use std::fs;
use std::path::Path;

use kiln_image::Format;
use serde_json::Value;

use crate::nouns::{AUTOCLEAR, EXTENSION, Made, SIZE, Scene, note};
use crate::tools::{Request, TOOLS, Tool, Trouble, run};

pub struct Verb {
    pub name: &'static str,
    /// What it may change of the image.
    changes: Changes,
    run: fn(&mut Scene, Tool) -> Result<(), Trouble>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changes {
    Nothing,
    /// What the image says of itself.
    Tables,
    /// What a guest reads.
    Contents,
}

const fn verb(name: &'static str, changes: Changes, run: fn(&mut Scene, Tool) -> Result<(), Trouble>) -> Verb {
    Verb { name, changes, run }
}

pub const VERBS: &[Verb] = &[
    verb("read", Changes::Nothing, |scene, tool| {
        let is = tool.read(scene.path(), "a", scene.noun.format)?;
        same(is == scene.model, "what was read")
    }),
    verb("write", Changes::Contents, |scene, tool| {
        let writes = [
            Request::Write { byte: 21, at: 200_704, len: 250_368 },
            Request::Write { byte: 22, at: 1_010_688, len: 512 },
            Request::Write { byte: 23, at: 2_500_096, len: 131_584 },
        ];
        scene.io(tool, &writes)
    }),
    verb("zero", Changes::Contents, |scene, tool| {
        let zero = |at, len, unmap| Request::Zero { at, len, unmap };
        scene.io(tool, &[zero(200_704, 66_048, true), zero(780_288, 65_536, false), zero(1_572_864, 131_072, true)])
    }),
    verb("discard", Changes::Contents, |scene, tool| scene.discard(tool, 196_608, 600_064)),
    verb("grow", Changes::Contents, |scene, tool| {
        tool.img(scene.path(), &["resize", "-q", "-f", scene.noun.format.name(), "a", "+1M"])?;
        scene.model.resize(scene.model.len() + (1 << 20), 0);
        Ok(())
    }),
    verb("shrink", Changes::Contents, |scene, tool| {
        tool.img(scene.path(), &["resize", "-q", "-f", scene.noun.format.name(), "--shrink", "a", "2M"])?;
        scene.model.truncate(2 << 20);
        Ok(())
    }),
    verb("create", Changes::Nothing, create),
    verb("info", Changes::Nothing, info),
    verb("check", Changes::Nothing, |scene, tool| check(scene, tool)),
    verb("convert", Changes::Nothing, convert),
    verb("snapshot", Changes::Tables, snapshot),
    verb("rebase", Changes::Tables, rebase),
    verb("commit", Changes::Contents, commit),
    verb("map", Changes::Nothing, map),
    verb("compare", Changes::Nothing, compare),
    verb("measure", Changes::Nothing, measure),
];

/// Where QEMU (7.2) doesn't do what it should: kind of image, verb, why it is no fault of kiln's.
/// It is right as well if QEMU does what it should.
const QEMU: &[(&str, &str, &str)] = &[
    ("version 2", "rebase", LOST_ZEROS),
    ("zero clusters, version 2", "rebase", LOST_ZEROS),
    ("compressed, version 2", "rebase", LOST_ZEROS),
    ("a snapshot, version 2", "rebase", LOST_ZEROS),
    ("marked corrupt", "commit", "QEMU writes into a base that is marked corrupt"),
    ("an unknown autoclear bit", "commit", "QEMU leaves the bit in a base that it has written to"),
    ("bitmaps", "snapshot", "QEMU applies no snapshot while there are bitmaps; kiln drops them and says so"),
];

const LOST_ZEROS: &str = "QEMU lets the new disk show where a version-2 image without a backing file reads zeros";

/// Why QEMU needn't do this.
pub fn qemu_differs(noun: &str, verb: &str) -> Option<&'static str> {
    QEMU.iter().find(|(a, b, _)| (*a, *b) == (noun, verb)).map(|(_, _, why)| *why)
}

/// What both tools must refuse, and why.
pub fn refusal(scene: &crate::nouns::Noun, verb: &str) -> Option<&'static str> {
    let writes = ["write", "zero", "discard", "grow", "shrink", "snapshot", "rebase", "commit"];
    let has_snapshots = matches!(scene.made, Made::Snapshot | Made::VmState);
    let data_file = scene.options.contains("data_file=");
    match verb {
        _ if scene.excluded => Some("the format has no such image"),
        "check" | "snapshot" | "rebase" if scene.format == Format::Raw => Some("a raw disk has none"),
        _ if scene.made == Made::Corrupt && writes.contains(&verb) => Some("it is marked corrupt"),
        "rebase" if scene.options.contains("data_file_raw=on") => Some("the data file must be a disk of its own"),
        "snapshot" if data_file => Some("an external data file can't share clusters"),
        "snapshot" if scene.options.contains("refcount_bits=1") => Some("refcounts of one bit can't share"),
        "grow" | "shrink" if has_snapshots && scene.options.contains("compat=0.10") => {
            Some("snapshots don't tell their length")
        }
        _ => None,
    }
}

impl Verb {
    /// Lets a tool do it, and judges what it leaves.
    pub fn run(&self, scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
        let before = scene.header();
        let bitmaps = bitmaps(scene)?;
        let memory = memory(scene)?;
        (self.run)(scene, tool)?;
        judge(scene)?;
        same(memory == self::memory(scene)?, "the machine's memory in the snapshot")?;
        let after = scene.header();
        if scene.noun.made == Made::Extension {
            same(after.windows(EXTENSION.len()).any(|part| part == EXTENSION), "the unknown extension is kept")?;
        }
        if scene.noun.made == Made::Autoclear {
            let is_set = u64::from_be_bytes(after[88..96].try_into().unwrap()) & AUTOCLEAR != 0;
            same(is_set == (self.changes == Changes::Nothing), "the unknown autoclear bit")?;
        }
        if self.changes == Changes::Nothing {
            same(before == after, "the header of an image that is only read")?;
            same(bitmaps == self::bitmaps(scene)?, "the bitmaps of an image that is only read")?;
        }
        if self.changes == Changes::Contents && tool == Tool::Kiln {
            same(self::bitmaps(scene)? == Value::Null, "no bitmap says that nothing has changed")?;
        }
        Ok(())
    }
}

fn same(is: bool, what: &str) -> Result<(), Trouble> {
    if is { Ok(()) } else { Err(Trouble::Wrong(what.to_owned())) }
}

fn json(tool: Tool, scene: &Scene, words: &[&str]) -> Result<Value, Trouble> {
    let text = tool.img(scene.path(), words)?;
    serde_json::from_str(&text).map_err(|error| Trouble::Wrong(format!("{words:?}: {error}: {text}")))
}

fn bitmaps(scene: &Scene) -> Result<Value, Trouble> {
    if scene.noun.made != Made::Bitmaps {
        return Ok(Value::Null);
    }
    let about = json(Tool::Qemu, scene, &["info", "--output=json", "a"])?;
    Ok(about["format-specific"]["data"]["bitmaps"].clone())
}

// The machine's memory that a snapshot has, as QEMU shows it.
fn memory(scene: &Scene) -> Result<Option<String>, Trouble> {
    if scene.noun.made != Made::VmState {
        return Ok(None);
    }
    fs::copy(scene.path().join("a"), scene.path().join("applied")).unwrap();
    let about = json(Tool::Qemu, scene, &["info", "--output=json", "applied"])?;
    let len = about["snapshots"][0]["vm-state-size"].as_u64().filter(|len| *len > 0);
    let Some(len) = len else { return Err(Trouble::Wrong(format!("no VM state: {about}"))) };
    Tool::Qemu.img(scene.path(), &["snapshot", "-a", "first", "applied"])?;
    // Whole sectors, as qemu-io wants it.
    let read = format!("read -v -b 0 {}", len / 512 * 512);
    let text = run(Path::new("qemu-io"), scene.path(), &["-f", "qcow2", "-c", &read, "applied"])?;
    // The last lines tell how long it took.
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(":  ")).collect();
    same(lines.len() as u64 == len / 512 * 32, "sixteen bytes of the memory in each line")?;
    Ok(Some(lines.join("\n")))
}

/// The image holds what it must for both tools, and both find it sound.
pub fn judge(scene: &mut Scene) -> Result<(), Trouble> {
    let format = scene.noun.format;
    for tool in TOOLS {
        let is = tool.read(scene.path(), "a", format)?;
        same(is == scene.model, &format!("the contents for {tool:?}"))?;
        for (name, contents) in &scene.snapshots {
            let mut is = tool.read_snapshot(scene.path(), "a", name)?;
            let mut contents = contents.clone();
            // A snapshot has the length that the disk had. QEMU shows it with the length of today.
            if tool == Tool::Qemu && scene.model.len() != contents.len() {
                contents.truncate(is.len());
                is.truncate(contents.len());
            }
            same(is == contents, &format!("the contents of snapshot {name} for {tool:?}"))?;
        }
    }
    fs::write(scene.path().join("model"), &scene.model).unwrap();
    for tool in TOOLS {
        tool.img(scene.path(), &["compare", "-q", "-f", "raw", "-F", format.name(), "model", "a"])?;
    }
    if format == Format::Raw {
        return Ok(());
    }
    for tool in TOOLS {
        check(scene, tool)?;
    }
    Ok(())
}

fn check(scene: &Scene, tool: Tool) -> Result<(), Trouble> {
    // What a mark on a dirty image means is that its refcounts are behind.
    if scene.header()[79] & 1 != 0 {
        fs::copy(scene.path().join("a"), scene.path().join("dirty")).unwrap();
        tool.img(scene.path(), &["check", "-q", "-f", "qcow2", "-r", "all", "dirty"])?;
        tool.img(scene.path(), &["check", "-q", "-f", "qcow2", "dirty"])?;
        return Ok(());
    }
    tool.img(scene.path(), &["check", "-q", "-f", scene.noun.format.name(), "a"]).map(drop)
}

// A new image with the same options, into which the other one writes; and one on top.
fn create(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    let (format, size, options) = (scene.noun.format, SIZE.to_string(), scene.noun.options_for("new"));
    let mut words = vec!["create", "-q", "-f", format.name()];
    if !options.is_empty() {
        words.extend(["-o", &options]);
    }
    words.extend(["new", &size]);
    tool.img(scene.path(), &words)?;
    let mut new = vec![0; SIZE as usize];
    let write = Request::Write { byte: 31, at: 99_840, len: 70_144 };
    tool.other().io(scene.path(), "new", format, &[write])?;
    note(&mut new, write);
    tool.img(scene.path(), &["create", "-q", "-f", "qcow2", "-b", "a", "-F", format.name(), "top"])?;
    let mut top = scene.model.clone();
    tool.other().io(scene.path(), "top", Format::Qcow2, &[write])?;
    note(&mut top, write);
    for reader in TOOLS {
        same(reader.read(scene.path(), "new", format)? == new, "the contents of a new image")?;
        same(reader.read(scene.path(), "top", Format::Qcow2)? == top, "the contents of a new image on top")?;
        if format == Format::Qcow2 {
            reader.img(scene.path(), &["check", "-q", "new"])?;
        }
        reader.img(scene.path(), &["check", "-q", "top"])?;
    }
    Ok(())
}

const TOLD: &[&str] =
    &["virtual-size", "format", "cluster-size", "dirty-flag", "backing-filename", "backing-filename-format"];

fn info(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    let words = ["info", "--output=json", "-f", scene.noun.format.name(), "a"];
    let (is, other) = (json(tool, scene, &words)?, json(tool.other(), scene, &words)?);
    for name in TOLD {
        same(is[name] == other[name], &format!("{name}: {} and {}", is[name], other[name]))?;
    }
    let specific = |about: &Value| about["format-specific"]["data"].clone();
    same(specific(&is) == specific(&other), &format!("{} and {}", specific(&is), specific(&other)))?;
    let snapshots = |about: &Value| {
        let all = about["snapshots"].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| [&one["id"], &one["name"], &one["vm-state-size"]].map(Clone::clone)).collect::<Vec<_>>()
    };
    same(snapshots(&is) == snapshots(&other), "the snapshots")
}

fn convert(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    let format = scene.noun.format;
    let options = scene.noun.options_for("new");
    let mut words = vec!["convert", "-q", "-f", format.name(), "-O", format.name()];
    if scene.noun.made == Made::Compressed {
        words.push("-c");
    }
    if !options.is_empty() {
        words.extend(["-o", &options]);
    }
    words.extend(["a", "new"]);
    tool.img(scene.path(), &words)?;
    for reader in TOOLS {
        same(reader.read(scene.path(), "new", format)? == scene.model, "the contents of the copy")?;
        if format == Format::Qcow2 {
            reader.img(scene.path(), &["check", "-q", "new"])?;
        }
    }
    tool.img(scene.path(), &["convert", "-q", "-f", format.name(), "-O", "raw", "a", "raw"])?;
    same(fs::read(scene.path().join("raw")).unwrap() == scene.model, "the contents of the raw copy")
}

fn snapshot(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    tool.img(scene.path(), &["snapshot", "-c", "then", "a"])?;
    scene.snapshots.insert("then".into(), scene.model.clone());
    judge(scene)?;
    scene.io(tool, &[Request::Write { byte: 41, at: 100_864, len: 140_288 }])?;
    judge(scene)?;
    tool.img(scene.path(), &["snapshot", "-a", "then", "a"])?;
    scene.model = scene.snapshots["then"].clone();
    judge(scene)?;
    tool.img(scene.path(), &["snapshot", "-d", "then", "a"])?;
    scene.snapshots.remove("then");
    for reader in TOOLS {
        let list = reader.img(scene.path(), &["snapshot", "-l", "a"])?;
        same(!list.contains("then"), "a snapshot that was deleted is listed")?;
    }
    Ok(())
}

fn rebase(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    // What snapshots don't say themselves, the new disk says.
    scene.snapshots.clear();
    let mut other = vec![51; 1 << 20];
    other[..200_000].fill(52);
    fs::write(scene.path().join("other"), other).unwrap();
    tool.img(scene.path(), &["rebase", "-f", "qcow2", "-b", "other", "-F", "raw", "a"])?;
    judge(scene)?;
    let about = json(Tool::Qemu, scene, &["info", "--output=json", "a"])?;
    same(about["backing-filename"] == "other", "the name of the new disk")?;
    tool.img(scene.path(), &["rebase", "-f", "qcow2", "-b", "", "a"])?;
    fs::remove_file(scene.path().join("other")).unwrap();
    Ok(())
}

fn commit(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    let format = scene.noun.format;
    tool.other().img(scene.path(), &["create", "-q", "-f", "qcow2", "-b", "a", "-F", format.name(), "top"])?;
    let requests = [
        Request::Write { byte: 61, at: 150_016, len: 100_864 },
        Request::Write { byte: 62, at: 2_000_384, len: 66_048 },
        Request::Zero { at: 720_896, len: 131_072, unmap: true },
    ];
    tool.other().io(scene.path(), "top", Format::Qcow2, &requests)?;
    tool.img(scene.path(), &["commit", "-q", "-f", "qcow2", "top"])?;
    for request in requests {
        note(&mut scene.model, request);
    }
    for reader in TOOLS {
        same(reader.read(scene.path(), "top", Format::Qcow2)? == scene.model, "the contents of what was merged")?;
    }
    Ok(())
}

fn map(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    let words = ["map", "--output=json", "-f", scene.noun.format.name(), "a"];
    let extents = |tool| {
        let all = json(tool, scene, &words)?;
        let fields = ["start", "length", "depth", "present", "zero", "data", "offset"];
        let told = |one: &Value| fields.map(|name| one[name].clone());
        Ok(all.as_array().unwrap().iter().map(told).collect::<Vec<_>>())
    };
    let (is, other) = (extents(tool)?, extents(tool.other())?);
    same(is == other, &format!("{is:?} and {other:?}"))
}

fn compare(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    let format = scene.noun.format.name();
    fs::write(scene.path().join("model"), &scene.model).unwrap();
    tool.img(scene.path(), &["compare", "-q", "-f", "raw", "-F", format, "model", "a"])?;
    scene.model[300_000] ^= 1;
    fs::write(scene.path().join("model"), &scene.model).unwrap();
    scene.model[300_000] ^= 1;
    match tool.img(scene.path(), &["compare", "-f", format, "-F", "raw", "a", "model"]) {
        Err(Trouble::Refused(what)) => same(what.contains("exit status: 1"), &what),
        _ => same(false, "a difference isn't seen"),
    }
}

fn measure(scene: &mut Scene, tool: Tool) -> Result<(), Trouble> {
    for target in ["qcow2", "raw"] {
        let words = ["measure", "--output=json", "-f", scene.noun.format.name(), "-O", target, "a"];
        let (is, other) = (json(tool, scene, &words)?, json(tool.other(), scene, &words)?);
        same(is == other, &format!("{target}: {is} and {other}"))?;
    }
    Ok(())
}

//! Files of a machine's disks, and which of them may go with it.
//!
//! A file goes only if it is the machine's own: a disk that it may write to, that no other machine uses and no image of
//! the store lies on. Whatever can't be looked at counts as used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kiln_domain::Domain;
use kiln_domain::xml::Element;
use kiln_image::Format;
use kiln_image::chain::lock_for_writing;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Known, Store, bases, running};
use crate::failure::{Failure, Status};

/// A file of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name of the disk, e.g. `vda`.
    pub target: String,
    /// The file.
    pub path: PathBuf,
    /// Why it is kept.
    pub kept: Option<String>,
}

/// A file, by its device and inode.
type Id = (u64, u64);
/// Who uses files.
type Users = BTreeMap<Id, String>;

// The files of an image's chain that are there, from the top.
fn chain(path: &Path, format: Option<Format>) -> Vec<Id> {
    let there = bases::files_of(path, format).into_iter().filter_map(|file| fs::metadata(file).ok());
    there.map(|about| (about.dev(), about.ino())).collect()
}

fn disks(domain: &Domain) -> impl Iterator<Item = (&Element, PathBuf)> {
    let disks = domain.devices().filter(|device| device.name() == "disk");
    disks.filter_map(|disk| Some((disk, bases::source_of(disk)?.into())))
}

// The files of all other machines, and what the images of the store lie on.
fn users(known: &Known) -> Result<Users, Failure> {
    let store = &known.store;
    let mut users = Users::new();
    for image in fs::read_dir(store.folders().images()).into_iter().flatten().flatten() {
        let path = image.path();
        for below in chain(&path, None).into_iter().skip(1) {
            users.insert(below, format!("{} lies on it", path.display()));
        }
    }
    let mut names = store.names()?;
    names.extend(running::names(store.folders()));
    for name in names.into_iter().filter(|name| *name != known.name) {
        let other = Known { store: store.clone(), name: name.clone() };
        for domain in [other.document(), other.definition()].into_iter().flatten() {
            let files = disks(&domain).flat_map(|(disk, path)| chain(&path, bases::format_of(disk)));
            users.extend(files.map(|file| (file, format!("the machine {name:?} uses it"))));
        }
    }
    Ok(users)
}

fn why_kept(store: &Store, disk: &Element, path: &Path, used: &Users, own: &[Vec<Id>]) -> Option<String> {
    let kind = disk.attribute("device").unwrap_or("disk");
    if kind != "disk" {
        return Some(format!("it is a {kind}'s medium"));
    }
    if disk.find("readonly").is_some() {
        return Some("it is read-only".into());
    }
    if disk.find("shareable").is_some() {
        return Some("machines may share it".into());
    }
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(e) => return Some(e.to_string()),
    };
    if !about.is_file() {
        let is_device = about.file_type().is_block_device();
        return Some(if is_device { "it is a block device".into() } else { "it is no plain file".into() });
    }
    if bases::is_base(store, path).unwrap_or(true) {
        return Some("it is a base of linked clones".into());
    }
    let id = (about.dev(), about.ino());
    if own.iter().any(|chain| chain.iter().skip(1).any(|below| *below == id)) {
        return Some("another disk of this machine lies on it".into());
    }
    used.get(&id).cloned()
}

/// The files of a machine's disks; `wanted` are names of disks or paths, all if there are none.
///
/// # Errors
/// When a disk that is wanted isn't there, or the store can't be read.
pub fn volumes(known: &Known, definition: &Domain, wanted: Option<&[String]>) -> Result<Vec<Volume>, Failure> {
    let used = users(known)?;
    let own: Vec<Vec<Id>> = disks(definition).map(|(disk, path)| chain(&path, bases::format_of(disk))).collect();
    let mut volumes = Vec::new();
    for (disk, path) in disks(definition) {
        let target = disk.find("target").and_then(|t| t.attribute("dev")).unwrap_or_default().to_owned();
        let is_meant = |word: &String| *word == target || std::path::absolute(word).is_ok_and(|there| there == path);
        let kept = match wanted {
            Some(words) if !words.iter().any(is_meant) => Some("it was not asked for".into()),
            _ => why_kept(&known.store, disk, &path, &used, &own),
        };
        volumes.push(Volume { target, path, kept });
    }
    for word in wanted.into_iter().flatten() {
        let path = std::path::absolute(word).unwrap_or_default();
        if !volumes.iter().any(|volume| volume.target == *word || volume.path == path) {
            return Err(Failure::new(Status::NotFound, format!("{:?} has no disk {word}", known.name))
                .advise(format!("kiln domblklist {}", known.name))
                .in_virsh(format!("Volume '{word}' was not found in domain's definition.")));
        }
    }
    Ok(volumes)
}

/// A file that nobody uses right now, and nobody can begin to use.
#[derive(Debug)]
pub struct Claimed {
    path: PathBuf,
    /// Locked while its name goes: no machine can start on it in between.
    file: File,
}

impl Claimed {
    /// Takes the file's locks.
    ///
    /// # Errors
    /// When somebody has them, or the file can't be opened.
    pub fn of(path: &Path) -> Result<Self, String> {
        let file = File::options().read(true).write(true).open(path).map_err(|e| e.to_string())?;
        lock_for_writing(&file, path).map_err(|e| e.to_string())?;
        Ok(Self { path: path.into(), file })
    }

    /// Removes it; with `wipe` zeros are written over what is in it before.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(self, wipe: bool) -> Result<(), String> {
        if wipe {
            overwrite(&self.file).map_err(|e| format!("it can't be overwritten: {e}"))?;
        }
        fs::remove_file(&self.path).map_err(|e| e.to_string())
    }
}

// Zeros over all that is data: holes have nothing to hide, and no room to take.
fn overwrite(file: &File) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return file.sync_all(),
            Err(e) => return Err(e.into()),
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
        at = data;
        while at < hole {
            let part = usize::try_from(hole - at).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_image::{Image, Open};

    use super::*;
    use crate::machine::definition;

    fn image(path: &Path, words: &[&str]) {
        let mut all = vec!["create".into(), "-q".into()];
        all.extend(words.iter().map(std::ffi::OsString::from));
        all.insert(all.len() - 1, path.into());
        assert_eq!(
            format!("{:?}", crate::disk::main(crate::disk::Dialect::QemuImg, &all)),
            format!("{:?}", std::process::ExitCode::SUCCESS)
        );
    }

    fn machine(store: &Store, name: &str, disks: &[(&Path, &str)]) -> Known {
        let disk = |(n, (path, inside)): (usize, &(&Path, &str))| {
            let (path, target) = (path.display(), char::from(b'a' + n as u8));
            format!(
                "    <disk type='file' device='disk'><source file='{path}'/><target dev='vd{target}' bus='virtio'/>\
                 {inside}</disk>\n"
            )
        };
        let disks: String = disks.iter().enumerate().map(disk).collect();
        let text = format!(
            "<domain type='kvm'>\n  <name>{name}</name>\n  <memory>262144</memory>\n  <devices>\n{disks}  \
             </devices>\n</domain>\n"
        );
        let prepared = definition::prepare(store, &text).unwrap();
        definition::keep(store, &store.change().unwrap(), &prepared).unwrap();
        Known { store: store.clone(), name: name.into() }
    }

    #[test]
    fn only_what_is_a_machines_own_goes() {
        let (_home, store) = Store::scratch();
        let images = store.folders().images();
        fs::create_dir_all(&images).unwrap();
        let at = |name: &str| images.join(name);
        for name in ["own", "readonly", "shared", "base", "lower"] {
            image(&at(name), &["-f", "qcow2", "1M"]);
        }
        let over = |name: &str, below: &str| {
            image(&at(name), &["-f", "qcow2", "-F", "qcow2", "-b", at(below).to_str().unwrap(), "1M"]);
        };
        over("clone", "base");
        // Nobody's disk, but an image of the store.
        over("kept-overlay", "lower");
        let web = machine(
            &store,
            "web",
            &[
                (&at("own"), ""),
                (&at("readonly"), "<readonly/>"),
                (&at("shared"), "<shareable/>"),
                (&at("base"), ""),
                (&at("lower"), ""),
                (&at("missing"), ""),
            ],
        );
        let db = machine(&store, "db", &[(&at("clone"), "")]);
        let found = volumes(&web, &web.definition().unwrap(), None).unwrap();
        let why = |n: usize| found[n].kept.clone().unwrap_or_default();
        assert_eq!(found[0].kept, None);
        assert!(why(1).contains("read-only") && why(2).contains("share"), "{found:?}");
        assert!(why(3).contains("\"db\" uses it") && why(4).contains("kept-overlay lies on it"), "{found:?}");
        assert!(why(5).contains("No such file"), "{found:?}");
        let found = volumes(&db, &db.definition().unwrap(), None).unwrap();
        assert_eq!((found.len(), &found[0].kept), (1, &None), "what lies below is never a disk's own");
        let one = volumes(&web, &web.definition().unwrap(), Some(&["vdb".into()])).unwrap();
        assert!(one[0].kept.as_ref().unwrap().contains("not asked for"), "{one:?}");
        assert!(volumes(&web, &web.definition().unwrap(), Some(&["vdz".into()])).is_err());
        Claimed::of(&at("own")).unwrap().remove(false).unwrap();
        assert!(!at("own").exists());
        let held = Image::open(&at("clone"), Open::writing(None)).unwrap();
        assert!(Claimed::of(&at("clone")).is_err() && at("clone").exists(), "a file in use stays");
        drop(held);
        let claimed = Claimed::of(&at("clone")).unwrap();
        assert!(Image::open(&at("clone"), Open::writing(None)).is_err(), "nobody can begin to use it");
        drop(claimed);
    }

    #[test]
    fn zeros_go_over_data_and_not_into_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let data = [0xaa; 100_000];
        for at in [0, 10 << 20, (64 << 20) - 100_000] {
            file.write_all_at(&data, at).unwrap();
        }
        let blocks = file.metadata().unwrap().blocks();
        overwrite(&file).unwrap();
        let about = file.metadata().unwrap();
        assert_eq!((about.len(), about.blocks()), (64 << 20, blocks));
        let mut read = vec![1; data.len()];
        for at in [0, 10 << 20, (64 << 20) - 100_000] {
            file.read_exact_at(&mut read, at).unwrap();
            assert!(read.iter().all(|byte| *byte == 0), "{at}");
        }
    }
}

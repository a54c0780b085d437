//! The argument lists, a file per verb.
//!
//! Every habit in them was tried with qemu-img 7.2. Missing are the formats that kiln doesn't have yet, --image-opts,
//! --object and bitmaps; and what qemu-img learned after 7.2: long names such as `create --format`, `rebase -c`,
//! `snapshot -f`, options behind resize's size. So are `convert -B ''`, which 7.2 ends by a signal, and verbs that read
//! a disk that lies below itself, which 7.2 never ends. `measure` with an unknown option shows its help there and ends
//! with 0; kiln has 1, as every other verb of qemu-img.

mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod info;
mod map;
mod measure;
mod rebase;
mod resize;
mod snapshot;

/// One argument list.
#[derive(Debug, Clone)]
pub struct List {
    /// As one would type it.
    pub line: String,
    pub words: Vec<String>,
    /// A file that somebody writes to meanwhile.
    pub locked: Option<&'static str>,
}

const PROGRAM: &[&str] =
    &["", "bogus", "--version", "--vers", "-V", "-hV", "--help", "-h", "--bogus", "-q info disk.raw"];

/// Reading verbs that every image is put through.
const EACH: &[&str] = &[
    "info --output=json",
    "check --output=json",
    "check --output=json -r all",
    "map --output=json",
    "measure -O qcow2 --output=json",
    "compare -f raw hole.raw",
    "convert -O raw -t none -W IMAGE out",
    "convert -O qcow2 -c IMAGE out",
];

/// What verbs do with a file that a machine is using.
const LOCKED: &[(&str, &str)] = &[
    ("disk.raw", "info disk.raw"),
    ("disk.raw", "info -U --output=json disk.raw"),
    ("base.qcow2", "info base.qcow2"),
    ("base.qcow2", "info -U --output=json base.qcow2"),
    ("base.qcow2", "info --backing-chain over.qcow2"),
    ("base.qcow2", "info -U --output=json --backing-chain over.qcow2"),
    ("base.qcow2", "check base.qcow2"),
    ("base.qcow2", "check -U --output=json base.qcow2"),
    ("base.qcow2", "check -r all base.qcow2"),
    ("base.qcow2", "map base.qcow2"),
    ("base.qcow2", "map -U --output=json base.qcow2"),
    ("disk.raw", "measure -O qcow2 disk.raw"),
    ("disk.raw", "measure -U -O qcow2 --output=json disk.raw"),
    ("disk.raw", "compare disk.raw hole.raw"),
    ("disk.raw", "compare hole.raw disk.raw"),
    ("disk.raw", "compare -U disk.raw hole.raw"),
    ("disk.raw", "convert disk.raw out"),
    ("disk.raw", "convert -U disk.raw out"),
    ("disk.raw", "convert hole.raw disk.raw"),
    ("disk.raw", "convert -U hole.raw disk.raw"),
    ("disk.raw", "convert -n -O raw hole.raw disk.raw"),
    ("disk.raw", "create disk.raw 1M"),
    ("base.qcow2", "create -f qcow2 base.qcow2 1M"),
    ("base.qcow2", "create -f qcow2 -b base.qcow2 -F qcow2 out"),
    ("base.qcow2", "resize base.qcow2 +1M"),
    ("disk.raw", "resize -f raw disk.raw +1M"),
    ("snaps.qcow2", "snapshot -l snaps.qcow2"),
    ("snaps.qcow2", "snapshot -U -l snaps.qcow2"),
    ("snaps.qcow2", "snapshot -c new snaps.qcow2"),
    ("snaps.qcow2", "snapshot -a s1 snaps.qcow2"),
    ("snaps.qcow2", "snapshot -d s1 snaps.qcow2"),
    ("over.qcow2", "rebase -b base.qcow2 -F qcow2 over.qcow2"),
    ("over.qcow2", "rebase -u -b base.qcow2 -F qcow2 over.qcow2"),
    ("base.qcow2", "rebase -b '' over.qcow2"),
    ("over.qcow2", "commit over.qcow2"),
    ("base.qcow2", "commit over.qcow2"),
];

/// All of them; `images` are put through the reading verbs one by one.
pub fn all(images: &[&str]) -> Vec<List> {
    let verbs = [
        create::LISTS,
        info::LISTS,
        check::LISTS,
        convert::LISTS,
        resize::LISTS,
        snapshot::LISTS,
        rebase::LISTS,
        commit::LISTS,
        map::LISTS,
        compare::LISTS,
        measure::LISTS,
        PROGRAM,
    ];
    let written = verbs.iter().flat_map(|lists| lists.iter()).map(|line| list((*line).to_owned(), None));
    let each = images.iter().flat_map(|image| EACH.iter().map(move |verb| list(on(verb, image), None)));
    let locked = LOCKED.iter().map(|(file, line)| list((*line).to_owned(), Some(*file)));
    written.chain(each).chain(locked).collect()
}

fn on(verb: &str, image: &str) -> String {
    if verb.contains("IMAGE") { verb.replace("IMAGE", image) } else { format!("{verb} {image}") }
}

fn list(line: String, locked: Option<&'static str>) -> List {
    let words = split(&line);
    List { line, words, locked }
}

/// Words between blanks; single quotes hold one together.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[test]
fn lines_are_split_at_blanks() {
    assert_eq!(split("create -o 'a b'  '' x"), ["create", "-o", "a b", "", "x"]);
    assert!(split("").is_empty());
}

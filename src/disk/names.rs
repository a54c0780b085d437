//! Names of images: a path, and nothing that QEMU would take for a protocol.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::failure::{Failure, Status};

/// The file that a name speaks of. `file:` in front is what QEMU lets people say; any other word before a colon is a
/// protocol there, so it is refused rather than opened as a file of that name.
pub(super) fn file(name: &OsStr) -> Result<PathBuf, Failure> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(Failure::new(Status::Usage, "a file's name is empty"));
    }
    let Some(protocol) = protocol(bytes) else { return Ok(PathBuf::from(name)) };
    if let b"file" = protocol {
        let rest = OsStr::from_bytes(&bytes[5..]);
        return if rest.is_empty() { file(rest) } else { Ok(PathBuf::from(rest)) };
    }
    let protocol = OsStr::from_bytes(protocol).display();
    let what = format!("{} names a protocol, {protocol}:, not a file", name.display());
    Err(Failure::new(Status::Usage, what)
        .why("kiln opens files and block devices so far")
        .advise(format!("./{} if a file is called that", name.display())))
}

fn protocol(name: &[u8]) -> Option<&[u8]> {
    let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[end] == b':').then(|| &name[..end])
}

/// The one image that most verbs work on.
pub(super) fn one(operands: &[OsString]) -> Result<PathBuf, Failure> {
    match operands {
        [name] => file(name),
        [] => Err(Failure::new(Status::Usage, "which image?").why("a file's name is expected")),
        [_, more, ..] => Err(too_many(more)),
    }
}

/// What to say of an argument for which there is no place.
pub(super) fn too_many(operand: &OsStr) -> Failure {
    Failure::new(Status::Usage, format!("there is one argument too many: {}", operand.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_never_opened_as_a_file() {
        for (name, want) in [
            ("disk.raw", "disk.raw"),
            ("./json:x", "./json:x"),
            ("/images/a:b", "/images/a:b"),
            ("file:disk.raw", "disk.raw"),
            ("file:a:b", "a:b"),
            ("-", "-"),
        ] {
            assert_eq!(file(OsStr::new(name)).unwrap(), PathBuf::from(want), "{name}");
        }
        for name in ["json:{}", "nbd:localhost", "fd:3", "out.x:y", "https://host/a", ":", "", "file:"] {
            assert!(file(OsStr::new(name)).is_err(), "{name}");
        }
        let text = file(OsStr::new("json:x")).unwrap_err().to_string();
        assert!(text.contains("> ./json:x if a file is called that"), "{text}");
    }

    #[test]
    fn one_image_is_one() {
        assert!(one(&[]).unwrap_err().to_string().contains("which image?"));
        assert!(one(&["a".into(), "b".into()]).unwrap_err().to_string().contains("too many: b"));
        assert_eq!(one(&["a".into()]).unwrap(), PathBuf::from("a"));
    }
}

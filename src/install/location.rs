//! Where an installer is: a folder, a server, or an ISO image.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Status};
use crate::media::fetch::Fetcher;
use crate::media::iso::Iso;
use crate::os::{Place, Tree};

/// Longest text file that is read whole.
const LONGEST_TEXT: u64 = 8 << 20;

/// Where `--location` leads.
pub(super) enum Location {
    Folder(PathBuf),
    /// With its address, which ends in a slash.
    Server {
        base: String,
        fetcher: Fetcher,
    },
    Medium(Box<Iso>),
}

// Schemes of a server that kiln fetches from.
fn is_on_server(location: &str) -> bool {
    location.starts_with("http://") || location.starts_with("https://")
}

impl Location {
    /// Opens what a location names.
    pub(super) fn open(location: &str) -> Result<Self, Failure> {
        if location.is_empty() {
            return Err(refuse(location, "it is empty").advise("Name a folder, an ISO image or an http(s) URL."));
        }
        if is_on_server(location) {
            let fetcher = Fetcher::new(location)?;
            return Ok(Self::Server { base: format!("{}/", location.trim_end_matches('/')), fetcher });
        }
        if let Some(failure) = other_scheme(location) {
            return Err(failure);
        }
        let path = std::path::absolute(location)
            .map_err(|e| Failure::new(Status::Usage, format!("--location {location:?}")).because(&e))?;
        if path.is_dir() { Ok(Self::Folder(path)) } else { Ok(Self::Medium(Iso::open(&path)?.into())) }
    }

    /// A file of it by the name that it has for people and, in a folder, for programs.
    pub(super) fn name(&self, path: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(path),
            Self::Server { base, .. } => format!("{base}{path}").into(),
            Self::Medium(iso) => iso.path().join(path),
        }
    }
}

fn refuse(location: &str, why: &str) -> Failure {
    Failure::new(Status::Usage, format!("--location {location:?}: {why}"))
}

// nfs:SERVER:/PATH is virt-install's, nfs://SERVER/PATH everybody's.
fn other_scheme(location: &str) -> Option<Failure> {
    if let Some(rest) = location.strip_prefix("nfs:") {
        let rest = rest.trim_start_matches("//");
        let (server, path) = rest.split_once([':', '/']).unwrap_or((rest, ""));
        let path = path.trim_start_matches('/');
        return Some(
            refuse(location, "kiln reads no NFS itself")
                .why("mounting is root's work, and the host's")
                .advise(format!("Mount it, then name the folder: mount -t nfs {server}:/{path} /mnt")),
        );
    }
    let (scheme, rest) = location.split_once("://")?;
    Some(match scheme {
        "ftp" | "ftps" => refuse(location, "kiln fetches over http and https, not ftp")
            .advise(format!("Most servers have the same tree there: --location https://{rest}")),
        "file" => refuse(location, "a file's path is expected, not its URL")
            .advise(format!("--location /{}", rest.trim_start_matches('/'))),
        _ => refuse(location, &format!("kiln fetches over http and https, not {scheme}"))
            .advise("Name a folder, an ISO image or an http(s) URL."),
    })
}

impl Tree for Location {
    fn has(&self, path: &str) -> Result<bool, Failure> {
        match self {
            Self::Folder(folder) => Ok(folder.join(path).is_file()),
            Self::Server { base, fetcher } => fetcher.exists(&format!("{base}{path}")),
            Self::Medium(iso) => iso.has(path),
        }
    }

    fn text(&self, path: &str) -> Result<Option<String>, Failure> {
        match self {
            Self::Folder(folder) => Ok(read(&folder.join(path))),
            Self::Server { base, fetcher } => fetcher.text(&format!("{base}{path}")),
            Self::Medium(iso) => iso.text(path),
        }
    }

    fn place(&self) -> Place {
        match self {
            Self::Folder(_) => Place::Folder,
            Self::Server { .. } => Place::Server,
            Self::Medium(_) => Place::Medium,
        }
    }
}

// What can't be read is as good as not there: the installer's own files are told later.
fn read(path: &Path) -> Option<String> {
    if !path.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST_TEXT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_not_kilns_get_the_line_to_type() {
        let rows = [
            ("nfs:server:/pub/tree", "mount -t nfs server:/pub/tree /mnt"),
            ("nfs://server/pub/tree", "mount -t nfs server:/pub/tree /mnt"),
            ("ftp://server/tree", "--location https://server/tree"),
            ("file:///srv/tree", "--location /srv/tree"),
            ("gopher://server/", "not gopher"),
        ];
        for (location, line) in rows {
            let failure = Location::open(location).map(drop).unwrap_err();
            assert!(failure.to_string().contains(line), "{failure}");
            assert_eq!(failure.status, Status::Usage);
        }
    }
}

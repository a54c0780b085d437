//! Where things are kept: root's folders, a user's XDG folders, or all below `KILN_HOME`.
//!
//! Source: XDG Base Directory Specification 0.8; the Filesystem Hierarchy Standard 3.0 for root.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Status};

/// Folders of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// Definitions of machines.
    pub config: PathBuf,
    /// Disks.
    pub data: PathBuf,
    /// Downloads; may be deleted at any time.
    pub cache: PathBuf,
    /// Sockets and locks of running machines; gone after a reboot.
    pub runtime: PathBuf,
    /// Logs.
    pub state: PathBuf,
}

/// What decides where the folders are.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Numeric user id.
    pub uid: u32,
    /// `KILN_HOME`.
    pub kiln_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub data: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub cache: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state: Option<PathBuf>,
}

impl Surroundings {
    /// This process's.
    pub fn here() -> Self {
        let get = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self {
            uid: rustix::process::geteuid().as_raw(),
            kiln_home: get("KILN_HOME"),
            home: get("HOME"),
            config: get("XDG_CONFIG_HOME"),
            data: get("XDG_DATA_HOME"),
            cache: get("XDG_CACHE_HOME"),
            runtime: get("XDG_RUNTIME_DIR"),
            state: get("XDG_STATE_HOME"),
        }
    }
}

impl Folders {
    /// Decides where the folders are.
    ///
    /// # Errors
    /// When neither `KILN_HOME` nor `HOME` tells, or `KILN_HOME` is relative.
    pub fn of(around: &Surroundings) -> Result<Self, Failure> {
        if let Some(home) = &around.kiln_home {
            let home = std::path::absolute(home).map_err(|e| {
                Failure::new(Status::Failed, format!("KILN_HOME={} can't be used", home.display())).because(&e)
            })?;
            return Ok(Self {
                config: home.join("config"),
                data: home.join("data"),
                cache: home.join("cache"),
                runtime: home.join("run"),
                state: home.join("state"),
            });
        }
        if around.uid == 0 {
            return Ok(Self {
                config: "/etc/kiln".into(),
                data: "/var/lib/kiln".into(),
                cache: "/var/cache/kiln".into(),
                runtime: "/run/kiln".into(),
                state: "/var/log/kiln".into(),
            });
        }
        // The specification: relative paths are invalid and ignored.
        let given = |path: &Option<PathBuf>| path.clone().filter(|p| p.is_absolute());
        let home = given(&around.home).ok_or_else(|| {
            Failure::new(Status::Failed, "neither HOME nor KILN_HOME says where to keep machines")
                .advise("Set one of them, e.g. export KILN_HOME=/srv/kiln")
        });
        let below = |xdg: &Option<PathBuf>, usual: &str| -> Result<PathBuf, Failure> {
            match (given(xdg), &home) {
                (Some(folder), _) => Ok(folder.join("kiln")),
                (None, Ok(home)) => Ok(home.join(usual).join("kiln")),
                (None, Err(failure)) => {
                    Err(Failure::new(failure.status, failure.what.clone()).advise(failure.advice.join("\n")))
                }
            }
        };
        let state = below(&around.state, ".local/state")?;
        Ok(Self {
            config: below(&around.config, ".config")?,
            data: below(&around.data, ".local/share")?,
            cache: below(&around.cache, ".cache")?,
            runtime: given(&around.runtime).map_or_else(|| state.join("run"), |r| r.join("kiln")),
            state,
        })
    }

    /// This process's.
    ///
    /// # Errors
    /// As [`Folders::of`].
    pub fn here() -> Result<Self, Failure> {
        Self::of(&Surroundings::here())
    }

    /// Folder of a machine's definition.
    pub fn definition(&self, name: &str) -> PathBuf {
        self.config.join("machines").join(name)
    }

    /// Lock of the store for changes.
    pub fn lock(&self) -> PathBuf {
        self.config.join("lock")
    }

    /// Folder of a running machine's sockets and lock.
    pub fn running(&self, name: &str) -> PathBuf {
        self.runtime.join("machines").join(name)
    }

    /// Folder of a machine's logs.
    pub fn logs(&self, name: &str) -> PathBuf {
        self.state.join("machines").join(name)
    }

    /// What a machine's process logs.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs(name).join("machine.log")
    }

    /// Folder of new disks.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }
}

/// A short folder of this user's alone, for sockets whose own path would be too long (unix(7): 107 bytes).
pub fn short_private() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let run = Path::new("/run/user").join(uid.to_string());
    let base = if run.is_dir() { run } else { env::temp_dir() };
    base.join(format!("kiln-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kiln_home_holds_all() {
        let around = Surroundings { kiln_home: Some("/srv/k".into()), ..Surroundings::default() };
        let folders = Folders::of(&around).unwrap();
        assert_eq!(folders.images(), Path::new("/srv/k/data/images"));
        assert_eq!(folders.running("web"), Path::new("/srv/k/run/machines/web"));
    }

    #[test]
    fn root_and_users_have_their_usual_places() {
        assert_eq!(Folders::of(&Surroundings::default()).unwrap().config, Path::new("/etc/kiln"));
        let user = Surroundings {
            uid: 1000,
            home: Some("/home/u".into()),
            data: Some("/data".into()),
            config: Some("relative".into()),
            runtime: Some("/run/user/1000".into()),
            ..Surroundings::default()
        };
        let folders = Folders::of(&user).unwrap();
        assert_eq!(folders.config, Path::new("/home/u/.config/kiln"), "a relative XDG path is ignored");
        assert_eq!(folders.data, Path::new("/data/kiln"));
        assert_eq!(folders.runtime, Path::new("/run/user/1000/kiln"));
        let lost = Surroundings { uid: 1000, ..Surroundings::default() };
        assert!(Folders::of(&lost).unwrap_err().to_string().contains("KILN_HOME"));
    }
}

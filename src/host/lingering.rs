//! Lingering: whether systemd ends a user's processes, machines among them, at the last logout.

use std::path::Path;

use serde::Serialize;

/// Whether machines outlive the user's last login session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Lingering {
    /// No systemd login manager, or root: nobody ends them.
    NotNeeded,
    /// Allowed: machines go on after logout.
    Enabled,
    /// Not allowed: machines end with the last session.
    Disabled {
        /// The user.
        user: String,
    },
}

impl Lingering {
    // loginctl(1), "enable-linger": a file of the user's name in /var/lib/systemd/linger.
    pub(super) fn find(root: &Path) -> Self {
        let (uid, name) = super::user(root);
        let name = name.unwrap_or_else(|| uid.to_string());
        if uid == 0 || !root.join("run/systemd/system").exists() {
            Lingering::NotNeeded
        } else if root.join("var/lib/systemd/linger").join(&name).exists() {
            Lingering::Enabled
        } else {
            Lingering::Disabled { user: name }
        }
    }

    /// What a person reads.
    pub fn describe(&self) -> String {
        match self {
            Lingering::NotNeeded => "not needed here".into(),
            Lingering::Enabled => "on: machines go on after logout".into(),
            Lingering::Disabled { .. } => "off: machines end when you log out".into(),
        }
    }

    pub(super) fn advise(&self) -> Option<String> {
        match self {
            Lingering::Disabled { user } => {
                Some(format!("To keep machines running after logout: loginctl enable-linger {user}"))
            }
            _ => None,
        }
    }
}

//! A Debian that one lives with: console, ssh, power button, clones, and its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::disk::{self, FILES, INSIDE};
use crate::page::Page;
use crate::stage::PATIENCE;
use crate::talk::Talk;
use crate::{KILN, LIVING};

const SSH: &str = "/usr/bin/ssh";

/// The user's folder, with the disk, and the user's key where ssh looks for it.
struct Home(tempfile::TempDir);

impl Home {
    fn new(made: &Path) -> Self {
        let home = Self(tempfile::Builder::new().prefix("k").tempdir().unwrap());
        for file in FILES {
            fs::copy(made.join(file), home.0.path().join(file)).unwrap();
        }
        let key = home.0.path().join("id_ed25519");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        // ssh looks for homes there; a lab has no users.
        if kiln_lab::inside() {
            let home = home.0.path().display();
            fs::write("/etc/passwd", format!("root:x:0:0:root:{home}:/bin/sh\n")).unwrap();
        }
        home
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let path = format!("{}:{}", Path::new(KILN).parent().unwrap().display(), std::env::var("PATH").unwrap());
        command.args(["-c", line]).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("PATH", path).env("HOME", self.0.path()).env("KILN_HOME", self.0.path().join("kiln"));
        command
    }

    fn runs(&self, line: &str) -> String {
        let output = self.shell(line).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{out}{err}", output.status);
        out.into_owned() + &err
    }

    // Up to the login, as a user watches it.
    fn watches(&self, line: &str) {
        let line = format!("cd {} && exec {line}", self.0.path().display());
        let mut talk = Talk::on_terminal(&self.shell(&line));
        talk.sees_within("login: ", PATIENCE);
        talk.types("\x1d");
        assert_eq!(talk.ends().0, Some(0));
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that fails leaves no machine running.
        for name in ["web", "three"] {
            let _ = self.shell(&format!("kiln destroy {name}")).output();
        }
    }
}

#[test]
fn a_machine_is_lived_with() {
    let made = disk::made();
    let brought: Vec<String> =
        FILES.iter().map(|file| format!("{}:{INSIDE}/{file}", made.join(file).display())).collect();
    let [disk, kernel, initrd, key] = [0, 1, 2, 3].map(|n| brought[n].as_str());
    kiln_lab::needs_kvm!(900, KILN, SSH, disk, kernel, initrd, key);
    let home = Home::new(&made);
    let key = format!("ssh -i {}", home.0.path().join("id_ed25519").display());
    let mut page = Page::of(LIVING);
    while let Some(line) = page.next() {
        if line.starts_with("kiln console") {
            home.watches(&line);
            continue;
        }
        // The key lies elsewhere than a user's.
        let said = home.runs(&line.replace("ssh ", &format!("{key} ")));
        let wanted: &[&str] = match line.as_str() {
            "kiln list" => &["web", "running"],
            "kiln domifaddr web" => &["10.0.2.15/24"],
            "kiln list --all" if said.contains("web") => &["web", "two", "three", "shut off"],
            "kiln undefine three --remove-all-storage" => &["three.qcow2", "removed"],
            line if line.starts_with("ssh ") => &["12."],
            _ => &[],
        };
        for text in wanted {
            assert!(said.contains(text), "{line} doesn't say {text:?}: {said}");
        }
    }
    assert_eq!(home.runs("kiln list --all --name").trim(), "");
    let left: Vec<_> = fs::read_dir(home.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".qcow2")), "{left:?}");
}

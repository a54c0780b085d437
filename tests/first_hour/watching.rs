//! An installer from an ISO, seen in the browser up to its first question.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use kiln_lab::installer::Netboot;
use kiln_lab::options::Options;
use kiln_lab::screen::Grid;
use kiln_lab::site::Site;
use kiln_lab::testing::{Place, place};

use crate::browser::Browser;
use crate::page::Page;
use crate::stage::PATIENCE;
use crate::{KILN, WATCHING};

/// The first question, as the installer's own templates have it.
const QUESTION: [&str; 2] = ["[!!] Select a language", "Choose the language to be used for the installation process."];
/// The WebSocket's port as the lab's own network has it, and the page's.
const OUTSIDE: u16 = 5799;

/// The installer on an image, laid out as Debian's netinst images are.
fn iso(netboot: &Netboot, folder: &Path) -> PathBuf {
    let (files, image) = (folder.join("files"), folder.join("debian.iso"));
    std::fs::create_dir_all(files.join("install.amd")).unwrap();
    for (from, to) in [(&netboot.kernel, "install.amd/vmlinuz"), (&netboot.initrd, "install.amd/initrd.gz")] {
        std::fs::copy(from, files.join(to)).unwrap();
    }
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-r", "-J", "-V", "Debian", "-o"]).arg(&image).arg(files);
    assert!(xorriso.status().expect("xorriso is missing: run the tests by `cargo xtask test`").success());
    image
}

/// Where kiln runs, and how the port of a WebSocket there is reached from here.
fn site(image: &Path, folder: &Path) -> (Arc<Site>, Option<u16>) {
    if place().unwrap() == Place::Straight {
        return (Arc::new(Site::here(Path::new(KILN), folder.into(), "KILN_HOME")), None);
    }
    let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let options = Options {
        memory_mib: 3072,
        forwards: vec![(here, OUTSIDE)],
        files: vec![(image.into(), "/hour/debian.iso".into()), ("/usr/bin/socat".into(), "/bin/socat".into())],
        ..Options::default()
    };
    (Arc::new(Site::lab(Path::new(KILN), options, "/hour", "KILN_HOME").unwrap()), Some(here))
}

// All commands in one script, since nothing outlives a command in the lab. Behind the address for browsers it waits until
// the test has seen the screen; in a lab the address leads outside meanwhile.
fn script(outside: Option<u16>) -> String {
    let mut page = Page::of(WATCHING);
    let mut script = String::from("set -e\n");
    while let Some(line) = page.next() {
        script += &format!("{line}\n");
        if line.starts_with("kiln vncdisplay") {
            if outside.is_some() {
                let from = format!("TCP-LISTEN:{OUTSIDE},bind=10.0.2.15,fork,reuseaddr");
                script += "port=$(kiln vncdisplay first | sed -n 's,^ws://127.0.0.1:\\([0-9]*\\)/$,\\1,p')\n";
                script += &format!("socat {from} TCP:127.0.0.1:$port & leads=$!\n");
            }
            script += "echo LOOK\nuntil [ -e seen ]; do sleep 0.2; done\n";
        }
    }
    if outside.is_some() {
        script += "kill $leads\n";
    }
    script + "kiln list --all --name | grep -q . && exit 1\necho DONE\n"
}

#[test]
fn an_installer_is_watched_in_the_browser_to_its_first_question() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let netboot = Netboot::get().unwrap();
    let image = iso(&netboot, folder.path());
    let (site, outside) = site(&image, folder.path());
    let font = netboot.font().unwrap();
    let (told, heard) = channel();
    let (script, runs) = (script(outside), site.clone());
    let commands = std::thread::spawn(move || {
        let status = runs.run(&script, &mut |bytes| drop(told.send(String::from_utf8_lossy(bytes).into_owned())));
        status.unwrap()
    });
    let mut said = String::new();
    while !said.contains("LOOK\n") {
        said +=
            &heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it ended, or nothing comes any more:\n{said}"));
    }
    let (_, port) = said.split_once("ws://127.0.0.1:").expect("no address for browsers");
    let port: u16 = port.split('/').next().unwrap().parse().unwrap();
    let browser = Browser::open(outside.unwrap_or(port));
    browser.reads(&QUESTION, |picture| Grid::read(&picture.pixels, picture.width, &font).text());
    site.sh("touch seen");
    let status = commands.join().unwrap();
    said.extend(heard.iter());
    assert!(status == 0 && said.contains("DONE\n"), "{status}: {said}");
    assert!(site.fetch(&site.path("first.png")).unwrap().starts_with(b"\x89PNG"));
}

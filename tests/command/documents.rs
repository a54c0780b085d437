//! What kiln writes is libvirt's domain XML, by libvirt's own schema.

use std::fs;
use std::process::Command;

use kiln_domain::Domain;

use super::guest::{self, SHELL};
use super::home::{Home, KILN, install};

/// `virt-xml-validate` finds nothing wrong (the package libvirt-clients; `cargo xtask test` installs it).
#[track_caller]
pub fn is_valid(home: &Home, document: &str) {
    let path = home.file("checked.xml", document);
    let output = Command::new("virt-xml-validate").args([&path, "domain"]).output();
    let output = output.expect("virt-xml-validate is there: cargo xtask test installs it");
    assert!(output.status.success(), "{}\n{document}", String::from_utf8_lossy(&output.stderr));
}

/// A tree whose files nobody boots.
fn tree(home: &Home) -> String {
    home.file("tree/debian-installer/amd64/linux", "kernel");
    home.file("tree/debian-installer/amd64/initrd.gz", "initrd");
    home.text("tree")
}

const DEFAULT: &[&str] = &[
    "--name",
    "a & <b> 'c'",
    "--graphics",
    "vnc,password=se'cret,listen=0.0.0.0,port=5999,websocket=-1,keymap=en-gb",
    "--vcpus",
    "4,sockets=2",
    "--disk",
    "size=1",
    "--disk",
    "size=2,readonly=yes",
    "--osinfo",
    "debian12",
    "--extra-args",
    "a=\"b & c\" <d>",
];
const SMALL: &[&str] = &["--template", "small", "--disk", "size=1"];

#[test]
fn printed_documents_are_valid() {
    let home = Home::new();
    let tree = tree(&home);
    for words in [DEFAULT, SMALL, &[]] {
        for which in ["1", "2"] {
            let words = [words, &["--location", &tree, "--print-xml", which]].concat();
            let document = home.kiln(&install(&words)).ends(0).out;
            is_valid(&home, &document);
            // As it is kept: with addresses.
            let mut kept = Domain::parse(&document).unwrap();
            kept.assign_addresses().unwrap();
            is_valid(&home, &kept.to_string());
            kept.hide_passwords();
            is_valid(&home, &kept.to_string());
        }
        let kernel = home.file("vmlinuz", "kernel");
        let boot = format!("kernel={kernel},kernel_args=quiet");
        let words = [words, &["--boot", &boot, "--print-xml"]].concat();
        let words: Vec<&str> = words.into_iter().filter(|w| !w.starts_with("a=") && *w != "--extra-args").collect();
        is_valid(&home, &home.kiln(&install(&words)).ends(0).out);
    }
    assert!(!home.store("").exists(), "printing makes nothing");
}

#[test]
fn a_schema_that_finds_nothing_would_prove_nothing() {
    let home = Home::new();
    let path = home.file("wrong.xml", "<domain type='kvm'><name>web</name><surprise/></domain>");
    let output = Command::new("virt-xml-validate").args([&path, "domain"]).output();
    assert!(!output.expect("virt-xml-validate is there: cargo xtask test installs it").status.success());
}

#[test]
fn what_is_kept_is_what_was_printed_with_addresses() {
    kiln_lab::needs_kvm!(100, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    for template in ["default", "small"] {
        let disk = format!("path={}", home.file("disk.img", vec![0; 1 << 20]));
        let words = ["--name", template, "--template", template, "--boot", &boot, "--disk", &disk];
        let line = install(&[&words[..], &["--noautoconsole"]].concat());
        let printed = home.kiln(&[&line[..], &["--print-xml"]].concat()).ends(0).out;
        home.kiln(&line).ends(0);
        let kept = home.kiln(&["dumpxml", template, "--inactive"]).ends(0).out;
        let mut wanted = Domain::parse(&printed).unwrap();
        let uuid = Domain::parse(&kept).unwrap().text("uuid").unwrap();
        wanted.root_mut().find_or_make("uuid").set_text(&uuid);
        wanted.assign_addresses().unwrap();
        assert_eq!(wanted.to_string().trim_end(), kept.trim_end());
        assert_eq!(fs::read_to_string(home.store(&format!("config/machines/{template}/domain.xml"))).unwrap(), kept);
        home.kiln(&["destroy", template]).ends(0);
    }
}

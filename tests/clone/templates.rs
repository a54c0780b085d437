//! Templates, by name and by file.

use std::fs;

use crate::home::install;
use crate::stage::Stage;

const WEB: &str = "<domain type='kvm'>
  <name>{{ name }}</name>
  <memory unit='MiB'>{{ memory|default(256) }}</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{{ kernel }}</kernel></os>
  <devices>{% if screen %}<video><model type='vga'/></video>{% endif %}</devices>
</domain>
";

#[test]
fn a_template_becomes_a_machine() {
    let stage = Stage::empty();
    let file = stage.home.file("web.xml.j2", WEB);
    let line = ["define", &file, "--set", "name=web", "--set", "kernel=/a & b", "--set", "screen=false"];
    stage.home.kiln(&line).ends(0).says(&["Domain 'web' defined from"]);
    let xml = stage.xml("web");
    assert!(xml.contains("<kernel>/a &amp; b</kernel>") && xml.contains("<uuid>") && !xml.contains("<video>"), "{xml}");
    let line =
        ["define", &file, "--set", "name=two", "--set", "kernel=/k", "--set", "screen=true", "--set", "memory=512"];
    stage.home.kiln(&line).ends(0);
    assert!(stage.xml("two").contains("<model type='vga'/>") && stage.xml("two").contains("'MiB'>512<"));
}

#[test]
fn what_a_template_cannot_be_filled_with_is_refused_and_nothing_stored() {
    let stage = Stage::empty();
    let file = stage.home.file("web.xml.j2", WEB);
    let broken = stage.home.file("broken.xml.j2", "<domain><name>{{ name }}</domain>");
    let unclosed = stage.home.file("unclosed.j2", "<domain>{% if x %}</domain>");
    let network = stage.home.file("network.j2", "<network/>");
    let plain = stage.home.file("plain.xml", "<domain/>");
    let large = stage.home.file("large.j2", vec![b' '; (4 << 20) + 1]);
    let endless = "{% set a = [1, 2] %}".to_owned() + &"{% set a = a + a %}".repeat(40) + "{{ 3 in a }}";
    let endless = stage.home.file("endless.j2", endless);
    let reads = stage.home.file("reads.j2", "{% include '../../../kernel' %}");
    let before = stage.everything();
    let all = ["--set", "name=a", "--set", "kernel=/k", "--set", "screen=false"];
    let with = |word: &'static str| [&all[..], &["--set", word]].concat();
    let rows: &[(&str, &[&str], i32, &[&str])] = &[
        (&file, &["--set", "name=a"], 1, &["web.xml.j2, line 4: kernel is not set", "> Set it: --set kernel=VALUE"]),
        (&file, &["--set", "name=a", "--set", "kernel=k"], 1, &["line 5: screen is not set"]),
        (
            &file,
            &with("nmae=b"),
            2,
            &["takes no such variable", "Did you mean name?", "It takes: kernel, memory, name, screen"],
        ),
        (&file, &with("name=b"), 2, &["given twice"]),
        (&file, &with("memory=\u{1}"), 2, &["--set memory=…", "U+0001", "XML can't hold"]),
        (&file, &with("a-b=1"), 2, &["--set a-b=…"]),
        (&file, &with("memory"), 2, &["NAME=VALUE is expected"]),
        (&broken, &["--set", "name=a"], 1, &["the XML can't be a machine's definition"]),
        (&unclosed, &[], 1, &["unclosed.j2, line 1"]),
        (&network, &[], 1, &["the document is a <network>"]),
        (&plain, &["--set", "name=a"], 2, &["--set goes with a template"]),
        (&large, &[], 1, &["it is larger than"]),
        (&endless, &[], 1, &["can't be filled in", "takes more than 3 s", "signal: 9"]),
        (&reads, &[], 1, &["no template of that name"]),
        ("none.j2", &[], 3, &["none.j2 can't be read"]),
    ];
    for (file, words, code, says) in rows {
        stage.home.kiln(&[&["define", file], *words].concat()).ends(*code).says(says);
        assert!(stage.everything() == before, "{file} {words:?}");
    }
}

#[test]
fn templates_are_listed_shown_and_checked() {
    let stage = Stage::empty();
    let kiln = |words: &[&str]| stage.home.kiln(&[&["template"], words].concat());
    kiln(&["list"]).ends(0).says(&["default   kiln\n", "small     kiln\n"]);
    kiln(&["show", "small"]).ends(0).says(&["{% extends \"default.xml.j2\" %}"]);
    kiln(&["show", "smal"]).ends(3).says(&["no template \"smal\"", "> Did you mean small?"]);
    for name in ["default", "small"] {
        kiln(&["check", name]).ends(0).says(&["by kiln install", "uuid", "A machine comes of it."]);
    }
    let folder = stage.home.store("config/templates");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("small.xml.j2"), "{% extends 'default.xml.j2' %}").unwrap();
    fs::write(folder.join("own.xml.j2"), WEB).unwrap();
    kiln(&["list"]).ends(0).says(&["own       ", "own.xml.j2\n", "small     ", "(in place of kiln's)"]);
    let rows: serde_json::Value = serde_json::from_str(&kiln(&["list", "--json"]).ends(0).out).unwrap();
    assert_eq!((&rows[1]["name"], &rows[2]["replaces"]), (&"own".into(), &true.into()), "{rows}");
    kiln(&["show", "small"]).ends(0).says(&["{% extends 'default.xml.j2' %}"]);
    kiln(&["check", "own"]).ends(1).says(&[
        "as kiln define does it",
        "name is not set",
        "as kiln install does it",
        "screen is not set",
    ]);
    let set = ["check", "own", "--set", "name=a", "--set", "kernel=/k", "--set", "screen=true"];
    kiln(&set).ends(0).says(&[
        "set              kernel name screen",
        "not set          memory",
        "A machine comes of it.",
    ]);
    let file = stage.home.file("tape.xml", "<domain type='kvm'><name>x</name></domain>");
    kiln(&["check", &file]).ends(0).says(&["note: kiln define would keep it; kiln start would refuse it", "firmware"]);
}

#[test]
fn an_install_is_filled_in_by_a_file() {
    let stage = Stage::empty();
    let own = "{% extends 'small.xml.j2' %}{% block rng %}<rng model='virtio'><rate bytes='{{ bytes }}'/>\
               <backend model='random'>/dev/urandom</backend></rng>{% endblock %}";
    let file = stage.home.file("own.xml.j2", own);
    let kernel = format!("kernel={}", stage.home.text("kernel"));
    let line = install(&["--boot", &kernel, "--import", "--template", &file, "--print-xml"]);
    let with = |words: &[&'static str]| stage.home.kiln(&[&line[..], words].concat());
    with(&["--set", "bytes=10"]).ends(0).says(&["<name>web</name>", "legacy='minimal'", "<rate bytes='10'/>"]);
    with(&[]).ends(1).says(&["bytes is not set"]);
    with(&["--set", "bytes=1", "--set", "name=b"])
        .ends(2)
        .says(&["--set name=…: kiln install fills this in by itself"]);
    with(&["--set", "bytes=1", "--set", "byte=b"]).ends(2).says(&["Did you mean bytes?"]);
    // One that leaves out what was asked for would make a machine that isn't the one.
    let file = stage.home.file("out.xml.j2", "<domain type='kvm'><name>{{ name }}</name></domain>");
    let disk = format!("path={},size=1", stage.home.text("d/x.qcow2"));
    let line = install(&["--boot", &kernel, "--import", "--template", &file, "--disk", &disk]);
    stage.home.kiln(&line).ends(1).says(&["leaves out the disk", "d/x.qcow2"]);
    let file = stage.home.file("other.xml.j2", "<domain type='kvm'><name>other</name></domain>");
    stage
        .home
        .kiln(&install(&["--boot", &kernel, "--import", "--template", &file]))
        .ends(1)
        .says(&["the machine's name"]);
}

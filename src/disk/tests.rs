use super::testing::{K, Q, words};
use super::*;

fn told(dialect: Dialect, line: &str) -> String {
    match parse(dialect, &words(line)) {
        Ok(Parsed::Print(text)) => text,
        Ok(Parsed::Do(request)) => format!("{request:?}"),
        Err(failure) => failure.told_by(dialect.program()),
    }
}

#[test]
fn help_lists_the_verbs_and_their_options() {
    for dialect in [K, Q] {
        let all = told(dialect, "--help");
        for verb in VERBS {
            assert!(all.contains(&format!("  {} ", verb.about.name)), "{all}");
            let help = told(dialect, &format!("{} --help", verb.about.name));
            assert!(help.contains(&format!(
                "Usage: {} {} [OPTIONS] {}",
                dialect.words(),
                verb.about.name,
                verb.about.operands
            )));
            assert!(!help.contains("--object") && !help.contains("--image-opts"), "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
        }
    }
    assert!(told(K, "create --help").contains("--force") && !told(Q, "create --help").contains("--force"));
}

#[test]
fn every_option_in_help_is_read() {
    for verb in VERBS {
        let name = verb.about.name;
        let help = told(K, &format!("{name} --help"));
        let options: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
        for option in options {
            let text = told(K, &format!("{name} {}", option.trim_matches(|c: char| !c.is_alphanumeric() && c != '-')));
            assert!(!text.contains("there is no option"), "{name} {option}: {text}");
        }
    }
}

#[test]
fn help_comes_before_what_is_wrong_behind_it() {
    assert!(told(Q, "create --help bogus --bogus").starts_with("Make a new disk"));
    assert!(told(Q, "create -h").starts_with("Make a new disk"));
    assert!(told(Q, "create --hel").starts_with("Make a new disk"));
    assert!(told(Q, "create --bogus --help").contains("no option --bogus"));
    assert!(told(Q, "-h").contains("Usage: qemu-img VERB"));
    assert!(told(Q, "--help info").contains("Usage: qemu-img VERB"));
}

#[test]
fn programs_find_a_version() {
    for line in ["--version", "-V", "--vers"] {
        assert!(told(Q, line).starts_with("qemu-img version 10.0"), "{line}");
        assert!(told(K, line).starts_with("kiln "), "{line}");
    }
}

#[test]
fn verbs_that_are_missing_are_named() {
    for (verb, _) in LATER {
        assert!(told(K, verb).contains(&format!("not yet: kiln disk {verb}")), "{verb}");
        assert!(told(Q, &format!("{verb} --what ever")).contains(&format!("not yet: qemu-img {verb}")), "{verb}");
    }
    assert!(told(Q, "").contains("which verb?"));
    assert!(told(Q, "converse x y").contains("Did you mean convert?"));
    assert!(told(K, "bogus").contains("kiln disk --help lists those there are"));
    assert!(told(Q, "--bogus").contains("no option --bogus"));
    assert!(told(Q, "-T all info x").contains("not yet: -T"));
}

#[test]
fn a_lone_dash_is_no_option_and_two_end_them() {
    for dialect in [K, Q] {
        assert!(told(dialect, "- compare a b").contains("no verb \"-\""), "{}", told(dialect, "- compare a b"));
        assert!(told(dialect, "-- compare a b").starts_with("Compare"), "{}", told(dialect, "-- compare a b"));
    }
}

#[test]
fn failures_bear_the_name_that_was_called() {
    assert!(told(Q, "info").starts_with("qemu-img: which image?"));
    assert!(told(K, "info").starts_with("kiln: which image?"));
}

#[test]
fn pasted_dashes_are_named() {
    for (dash, code) in [('\u{2013}', "U+2013"), ('\u{2014}', "U+2014"), ('\u{2212}', "U+2212")] {
        let text = told(Q, &format!("create {dash}f qcow2 x 1G"));
        assert!(text.contains(code) && text.contains("> qemu-img create -f qcow2 x 1G"), "{text}");
    }
    let text = told(K, "resize x \u{2212}1G");
    assert!(text.contains("> kiln disk resize x -1G"), "{text}");
}

// qemu-img 7.2: `compare -T bogus a b` ends with 2, `compare a` with 1, any other error with 1.
#[test]
fn statuses_are_the_called_name_s() {
    let status = |dialect, line: &str| {
        let failure = parse(dialect, &words(line)).unwrap_err();
        exit(dialect, &words(line), &failure)
    };
    for (dialect, line, want) in [
        (K, "create", 2),
        (K, "compare -T bogus a b", 2),
        (K, "bogus", 2),
        (Q, "create", 1),
        (Q, "bogus", 1),
        (Q, "compare a", 1),
        (Q, "compare -T bogus a b", 2),
        (Q, "info ''", 1),
    ] {
        assert_eq!(status(dialect, line), ExitCode::from(want), "{line}");
    }
}

#[test]
fn requests_name_their_verb() {
    for (verb, rest) in [
        ("create", "x 1G"),
        ("info", "x"),
        ("check", "x"),
        ("convert", "x y"),
        ("resize", "x 1G"),
        ("snapshot", "x"),
        ("rebase", "-b '' x"),
        ("commit", "x"),
        ("map", "x"),
        ("compare", "x y"),
        ("measure", "x"),
    ] {
        let Ok(Parsed::Do(request)) = parse(K, &words(&format!("{verb} {rest}"))) else { panic!("{verb}") };
        assert_eq!(request.verb(), verb);
    }
}

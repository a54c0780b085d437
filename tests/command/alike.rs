//! Two programs' output side by side: what must be the same, and what each difference is.
//!
//! Numbers, uuids and names of temporary files are masked. Tables are taken apart after a look at whether each is laid
//! out by virsh's rule for what stands in it: a masked word may change a column's width, and nothing else may.

use std::process::Output;

/// What the test driver says where QEMU's driver, whose machines kiln's are, or kiln says something else.
const DRIVER: &[(&str, &str)] = &[
    ("internal error: domain 'test' not running", "Requested operation is not valid: domain is not running"),
    ("internal error: domain 'test' not paused", "Requested operation is not valid: domain is already running"),
    ("OS Type:        linux", "OS Type:        hvm"),
    (
        "unsupported flags (0x2) in function testDomainShutdownFlags",
        "not yet: --mode agent: kiln talks to no agent in guests so far\nerror: --mode acpi presses the power button.",
    ),
    (
        "unsupported flags (0x2) in function testDomainCreateWithFlags",
        "--autodestroy can't be done: kiln's machines hang on no connection: this command ends at once, and the machine \
         would with it\nerror: kiln destroy NAME ends it when you are done.",
    ),
    (
        "unsupported flags (0x8) in function testDomainSetVcpusFlags",
        "not yet: --guest: kiln talks to no agent in guests so far\nerror: With --config another number counts from the \
         next start on.",
    ),
    (
        "unsupported flags (0x10) in function testDomainSetVcpusFlags",
        "not yet: --hotpluggable: kiln can't plug processors yet\nerror: With --config another number counts from the \
         next start on.",
    ),
    (
        "XML document failed to validate against schema: Unable to validate doc against \
         /usr/share/libvirt/schemas/domain.rng\nElement domain has extra content: unheard\n\n",
        "XML document failed to validate: <domain> has no <unheard>\n",
    ),
];

/// How lines begin that kiln alone says, on standard error.
const OWN: [&str; 4] = ["note: ", "kept: ", "screen: ", "browser: "];

/// Fails unless both say the same; `own` is what kiln alone says, a line each, by what stands in it.
#[track_caller]
pub fn same(ours: &Output, theirs: &Output, own: &[&str], line: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = text(&ours.stderr);
    let (said, err) = without_own(&all);
    let is_expected = said.len() == own.len() && said.iter().zip(own).all(|(line, part)| line.contains(part));
    assert!(is_expected, "{line}: kiln alone says {said:#?}, not {own:#?}");
    assert_eq!(masked(&err), masked(&driven(&text(&theirs.stderr))), "stderr of {line}");
    assert_eq!(masked(&text(&ours.stdout)), masked(&driven(&text(&theirs.stdout))), "stdout of {line}");
    assert_eq!(ours.status.code(), theirs.status.code(), "exit status of {line}");
}

fn without_own(text: &str) -> (Vec<&str>, String) {
    let is_own = |line: &&str| OWN.iter().any(|start| line.starts_with(start));
    let (own, rest): (Vec<&str>, Vec<&str>) = text.split('\n').partition(is_own);
    (own, rest.join("\n"))
}

// What the test driver says, as QEMU's driver would: no security labels, no processor time of what is off.
fn driven(text: &str) -> String {
    let text = DRIVER.iter().fold(text.to_owned(), |text, (driver, words)| text.replace(driver, words));
    let mut is_off = false;
    let is_kept = |line: &&str| {
        if line.starts_with("State: ") {
            is_off = line.ends_with("shut off");
        }
        !(line.starts_with("Security ") || is_off && line.starts_with("CPU time:"))
    };
    text.split('\n').filter(is_kept).collect::<Vec<_>>().join("\n")
}

/// Lines with what may differ masked.
fn masked(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut all = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let rows = lines[at..].iter().take_while(|line| line.starts_with(' ') || line.starts_with("---")).count();
        match rows {
            0 => {
                all.push(without_numbers(lines[at]));
                at += 1;
            }
            _ => {
                all.extend(table(&lines[at..at + rows]).into_iter().map(|cells| cells.join(" | ")));
                at += rows;
            }
        }
    }
    all
}

// The masked cells of a table's rows, whose layout is checked.
fn table(lines: &[&str]) -> Vec<Vec<String>> {
    let (rules, rows): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with("---"));
    let cells: Vec<Vec<&str>> = rows.iter().map(|row| cells(row)).collect();
    let (laid_out, width) = if cells.iter().flatten().any(|cell| *cell == "MAC address" || *cell == "ipv4") {
        // virsh has fixed columns here.
        let row = |c: &Vec<&str>| format!(" {:<10} {:<20} {:<8}     {}", c[0], c[1], c[2], c[3]);
        (cells.iter().map(row).collect::<Vec<_>>(), 79)
    } else {
        let width = |n: usize| cells.iter().map(|row| row[n].len()).max().unwrap_or(0) + 3;
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        let row = |cells: &Vec<&str>| {
            let (last, others) = cells.split_last().unwrap();
            let others = others.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!(" {}{last}", others.collect::<String>())
        };
        (cells.iter().map(row).collect(), widths.iter().sum())
    };
    assert_eq!(rows, laid_out, "a table is laid out otherwise");
    rules.iter().for_each(|rule| assert_eq!(*rule, "-".repeat(width), "under {rows:#?}"));
    cells
        .into_iter()
        .map(|row| row.iter().enumerate().map(|(n, cell)| masked_cell(cell, n, row.len())).collect())
        .collect()
}

// Between cells are at least three blanks; of the fixed columns one may be filled to its last but one.
fn cells(row: &str) -> Vec<&str> {
    let mut rest = row.strip_prefix(' ').unwrap();
    let mut cells = Vec::new();
    while let Some(at) = rest.find("   ") {
        cells.push(&rest[..at]);
        rest = rest[at..].trim_start();
    }
    cells.push(rest);
    cells
}

// Cards are named testnet0 there, from the definition on, and vnet0 here, while they are in a running machine: what
// stands first of the five cells that tell of a card.
fn masked_cell(cell: &str, n: usize, of: usize) -> String {
    let is_card = matches!(cell, "testnet0" | "vnet0") || (n, of, cell) == (0, 5, "-");
    if is_card { "CARD".into() } else { without_numbers(cell) }
}

fn without_numbers(line: &str) -> String {
    let words: Vec<String> = line.split(' ').map(word).collect();
    let mut masked = String::new();
    for c in words.join(" ").chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if c != '0' || !masked.ends_with(c) {
            masked.push(c);
        }
    }
    masked.replace("testnet0", "CARD").replace("vnet0", "CARD")
}

// A uuid is hexadecimal digits and dashes, in five groups.
fn word(word: &str) -> String {
    let is_group = |group: &str| group.chars().all(|c| c.is_ascii_hexdigit());
    if word.split('-').count() == 5 && word.split('-').all(is_group) {
        return "UUID".into();
    }
    let is_file = word.starts_with('/') && word.ends_with(".xml)");
    if is_file { "FILE)".into() } else { word.into() }
}

#[test]
fn what_is_laid_out_otherwise_is_seen() {
    let fine = " Id   Name   State\n----------------------\n 12   web    running\n\n";
    assert_eq!(masked(fine)[..3], ["Id | Name | State", "0 | web | running", ""]);
    for bad in [fine.replace("--\n", "-\n"), fine.replace("web    ", "web   "), fine.replace("Name   ", "Name    ")] {
        std::panic::catch_unwind(|| masked(&bad)).unwrap_err();
    }
    let address = " vnet0      52:54:00:00:00:11    ipv4         10.0.2.15/24";
    assert_eq!(masked(address), ["CARD | 0:0:0:0:0:0 | ipv0 | 0.0.0.0/0"]);
    std::panic::catch_unwind(|| masked(&address.replace("ipv4  ", "ipv4   "))).unwrap_err();
    assert_ne!(masked("Max memory:     1 KiB"), masked("Max memory:  1 KiB"), "blanks count");
}

use super::*;

fn read(format: Format, lists: &[&str]) -> Result<New, Failure> {
    let mut options = Options::default();
    for list in lists {
        options.add(&Value { option: "-o", given: OsStr::new(list) })?;
    }
    options.read(format)?.finish(format)
}

fn qcow2(list: &str) -> Qcow2 {
    match read(Format::Qcow2, &[list]).unwrap().layout {
        Layout::Qcow2(qcow2) => *qcow2,
        Layout::Raw { .. } => panic!("raw"),
    }
}

#[track_caller]
fn refused(format: Format, list: &str, says: &str) {
    let text = read(format, &[list]).unwrap_err().to_string();
    assert!(text.contains(says), "{list}: {text}");
}

#[test]
fn commas_are_doubled_in_values() {
    assert_eq!(split("a=b,c=d"), ["a=b", "c=d"]);
    assert_eq!(split("a=b,,c,d"), ["a=b,c", "d"]);
    assert_eq!(split("a,,,b"), ["a,", "b"]);
    let backing = qcow2("backing_file=a,,b.qcow2,backing_fmt=qcow2").backing.unwrap();
    assert_eq!(backing, Backing { file: "a,b.qcow2".into(), format: Format::Qcow2 });
    assert_eq!(qcow2("backing_file=a,,,backing_fmt=raw").backing.unwrap().file, PathBuf::from("a,"));
    assert_eq!(qcow2("data_file=a,,").data_file, Some("a,".into()));
    for list in ["", ",", ",,", "compat=1.1,", "compat=1.1,,,", ",compat=1.1", ",,compat=1.1"] {
        refused(Format::Qcow2, list, "a comma only between");
    }
}

#[test]
fn every_option_reaches_its_field() {
    let plain = qcow2("size=1G");
    assert_eq!((plain.version, plain.cluster_size, plain.refcount_bits), (3, 64 << 10, 16));
    assert_eq!(qcow2("compat=0.10").version, 2);
    assert_eq!(qcow2("compat=v2").version, 2);
    assert_eq!(qcow2("compat=v3").version, 3);
    assert_eq!(qcow2("compat=1.1").version, 3);
    assert_eq!(qcow2("cluster_size=2M").cluster_size, 2 << 20);
    assert_eq!(qcow2("cluster_size=512").cluster_size, 512);
    assert_eq!(qcow2("refcount_bits=0x10").refcount_bits, 16);
    assert_eq!(qcow2("refcount_bits=020").refcount_bits, 16);
    assert_eq!(qcow2("refcount_bits=1").refcount_bits, 1);
    assert_eq!(qcow2("refcount_bits=64").refcount_bits, 64);
    assert_eq!(qcow2("compression_type=zstd").compression, Compression::Zstd);
    assert_eq!(qcow2("compression_type=zlib").compression, Compression::Zlib);
    assert!(qcow2("lazy_refcounts=on").lazy_refcounts);
    assert!(qcow2("extended_l2=on").extended_l2);
    assert!(qcow2("data_file=d,data_file_raw=on").data_file_raw);
    assert_eq!(qcow2("data_file=d").data_file, Some("d".into()));
    assert_eq!(qcow2("preallocation=metadata").preallocation, Preallocation::Metadata);
    assert_eq!(qcow2("preallocation=falloc").preallocation, Preallocation::Falloc);
    for format in [Format::Raw, Format::Qcow2] {
        let new = read(format, &["size=1.5G,nocow=on,extent_size_hint=1M"]).unwrap();
        assert_eq!((new.size, new.nocow, new.extent_size_hint), (Some(3 << 29), true, Some(1 << 20)));
    }
    let raw = read(Format::Raw, &["preallocation=full"]).unwrap().layout;
    assert_eq!(raw, Layout::Raw { preallocation: Preallocation::Full });
}

#[test]
fn yes_and_no_have_several_words_and_the_last_counts() {
    for yes in ["lazy_refcounts", "lazy_refcounts=yes", "lazy_refcounts=true", "lazy_refcounts=y"] {
        assert!(qcow2(yes).lazy_refcounts, "{yes}");
    }
    for no in
        ["nolazy_refcounts", "lazy_refcounts=no", "lazy_refcounts=false", "lazy_refcounts=n", "lazy_refcounts=off"]
    {
        assert!(!qcow2(no).lazy_refcounts, "{no}");
    }
    for wrong in ["lazy_refcounts=", "lazy_refcounts=ON", "lazy_refcounts=1", "lazy_refcounts=maybe"] {
        refused(Format::Qcow2, wrong, "on or off is expected");
    }
    assert_eq!(qcow2("cluster_size=4k,cluster_size=8k").cluster_size, 8 << 10);
    let new = read(Format::Raw, &["size=1M", "size=2M"]).unwrap();
    assert_eq!(new.size, Some(2 << 20));
}

#[test]
fn values_that_can_not_be_meant_are_refused() {
    for (list, says) in [
        ("cluster_size=3000", "no power of two"),
        ("cluster_size=256", "no power of two"),
        ("cluster_size=4M", "no power of two"),
        ("cluster_size=0", "no power of two"),
        ("cluster_size=-1", "bytes are expected"),
        ("cluster_size=2MB", "bytes are expected"),
        ("cluster_size", "bytes are expected"),
        ("refcount_bits=3", "no power of two"),
        ("refcount_bits=0", "no power of two"),
        ("refcount_bits=128", "no power of two"),
        ("refcount_bits=16k", "a number is expected"),
        ("refcount_bits=-1", "a number is expected"),
        ("compat=2", "there are 1.1, 0.10"),
        ("compat", "there are 1.1, 0.10"),
        ("compression_type=lz4", "there are zlib, zstd"),
        ("preallocation=bogus", "there are off"),
        ("extent_size_hint=8G", "4 GiB or more"),
        ("size=9E", "2^63 - 1"),
        ("backing_file=,backing_fmt=raw", "name is empty"),
        ("backing_file=nbd:x,backing_fmt=raw", "protocol"),
        ("backing_fmt=vmdk", "not yet: format vmdk"),
        ("data_file=", "name is empty"),
    ] {
        refused(Format::Qcow2, list, says);
    }
}

#[test]
fn what_excludes_each_other_is_refused() {
    for list in ["lazy_refcounts=on", "refcount_bits=8", "compression_type=zstd", "extended_l2=on", "data_file=d"] {
        refused(Format::Qcow2, &format!("compat=0.10,{list}"), "needs version 3");
    }
    assert_eq!(qcow2("compat=0.10,compression_type=zlib,refcount_bits=16").version, 2);
    refused(Format::Qcow2, "extended_l2=on,cluster_size=8k", "16k or more");
    refused(Format::Qcow2, "data_file_raw=on", "there is none");
    refused(Format::Qcow2, "data_file=d,data_file_raw=on,backing_file=b,backing_fmt=raw", "exclude each other");
    refused(Format::Qcow2, "preallocation=metadata,backing_file=b,backing_fmt=raw", "hide the backing file");
    assert!(qcow2("preallocation=metadata,extended_l2=on,backing_file=b,backing_fmt=raw").backing.is_some());
    refused(Format::Qcow2, "backing_file=b", "Add -F");
    refused(Format::Qcow2, "backing_fmt=raw", "Add -b");
    refused(Format::Raw, "preallocation=metadata", "no metadata");
}

#[test]
fn unknown_options_are_named_with_the_nearest() {
    refused(Format::Qcow2, "cluster-size=4k", "Did you mean cluster_size?");
    refused(Format::Qcow2, "bogus=1", "qcow2 has no option \"bogus\"");
    refused(Format::Qcow2, "=x", "qcow2 has no option \"\"");
    refused(Format::Qcow2, "help=1", "no option \"help\"");
    refused(Format::Raw, "cluster_size=4k", "It is qcow2's");
    for name in ["encryption", "encrypt.format", "encrypt.key-secret"] {
        refused(Format::Qcow2, &format!("{name}=on"), &format!("not yet: -o {name}"));
    }
}

#[test]
fn help_lists_every_option_of_the_format() {
    for format in [Format::Raw, Format::Qcow2] {
        for row in rows(format) {
            assert!(help(format).contains(&format!("  {}=", row.name)), "{}", row.name);
        }
    }
    assert!(!help(Format::Raw).contains("cluster_size"));
    let mut options = Options::default();
    options.add(&Value { option: "-o", given: OsStr::new("cluster_size=4k,?") }).unwrap();
    assert!(options.asks_for_help() && !options.is_empty());
}

#[test]
fn measure_looks_at_what_takes_space_only() {
    let mut options = Options::default();
    options
        .add(&Value { option: "-o", given: OsStr::new("compat=0.10,lazy_refcounts=on,backing_file=b,cluster_size=4k") })
        .unwrap();
    let draft = options.read(Format::Qcow2).unwrap().for_measure(Format::Qcow2);
    let Layout::Qcow2(qcow2) = draft.finish(Format::Qcow2).unwrap().layout else { panic!() };
    assert_eq!((qcow2.version, qcow2.cluster_size, qcow2.backing), (3, 4096, None));
}

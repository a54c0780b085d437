use super::*;
use crate::disk::options::Backing;
use crate::disk::testing::{self, K, Q};

fn convert(dialect: Dialect, line: &str) -> Box<Convert> {
    match testing::request(parse, dialect, line) {
        Request::Convert(convert) => convert,
        other => panic!("{other:?}"),
    }
}

fn new(line: &str) -> New {
    match convert(Q, line).target {
        Target::New { new, .. } => new,
        other @ Target::Existing { .. } => panic!("{other:?}"),
    }
}

#[test]
fn every_option() {
    testing::covers(
        parse,
        OPTIONS,
        &[
            "-f raw -O qcow2 -o cluster_size=4k -c -B b -F raw -l s1 -S 4k -t none -T none -U -m 4 -W -r 1M -p -q x y",
            "-C x y",
            "-n x y",
            "--source-format raw --target-format qcow2 --target-format-options compat=1.1 --compress x y",
            "--target-format qcow2 --backing b --backing-format raw x y",
            "--snapshot s1 --sparse-size 4k --target-cache none --source-cache none --force-share --parallel 4 x y",
            "--oob-writes --rate-limit 1M --progress --quiet --salvage --force x y",
            "--copy-range-offloading --no-create --target-is-zero x y",
            "--bitmaps x y",
            "--skip-broken-bitmaps x y",
            "--target-image-opts x y",
            "--image-opts x y",
            "--object secret x y",
        ],
    );
    let full = convert(K, "-cpUWO qcow2 -f raw -t none -T directsync -l s1 -S 8k -m 4 -r 1M --salvage --force x y");
    assert!(full.compress && full.progress && full.force_share && full.out_of_order && full.salvage);
    assert!(!full.copy_offload && !full.quiet);
    assert_eq!(
        (full.source_format, full.cache, full.source_cache),
        (Some(Format::Raw), Cache::None, Cache::Directsync)
    );
    assert_eq!((full.sparse, full.workers, full.rate_limit), (Some(8192), 4, Some(1 << 20)));
    assert_eq!(full.snapshot, Some(Snapshot::IdOrName("s1".into())));
    assert_eq!((full.sources, full.file), (vec!["x".into()], "y".into()));
    assert!(matches!(full.target, Target::New { force: true, .. }));
    assert!(convert(Q, "-C x y").copy_offload);
}

#[test]
fn what_holds_when_nothing_is_said() {
    let plain = convert(K, "x y");
    assert_eq!((plain.cache, plain.source_cache), (Cache::Unsafe, Cache::Writeback));
    assert_eq!((plain.workers, plain.sparse, plain.rate_limit), (8, None, None));
    let raw = Layout::Raw { preallocation: Preallocation::Off };
    let Target::New { new, force } = plain.target else { panic!() };
    assert_eq!((new.layout, new.size, force), (raw, None, false));
    assert!(matches!(convert(Q, "x y").target, Target::New { force: true, .. }));
    assert!(convert(Q, "-p -q x y").quiet && !convert(Q, "-p -q x y").progress);
    assert_eq!(convert(Q, "-S 0 -r 0 x y").sparse, Some(0));
}

#[test]
fn several_sources_come_one_behind_the_other() {
    assert_eq!(convert(Q, "a b c").sources, [PathBuf::from("a"), PathBuf::from("b")]);
    testing::refused(parse, Q, "-O qcow2 -B b -F raw x y z", "there are several");
    testing::refused(parse, Q, "-O qcow2 -o backing_file=b,backing_fmt=raw x y z", "there are several");
    testing::refused(parse, Q, "-l s1 x y z", "there are several");
    assert!(convert(Q, "-l snapshot.name=s1 x y z").snapshot.is_some());
}

#[test]
fn a_target_that_is_there() {
    let existing = |line: &str| convert(Q, line).target;
    assert_eq!(existing("-n -O qcow2 x y"), Target::Existing { format: Format::Qcow2, is_zero: false });
    assert_eq!(existing("-n --target-is-zero x y"), Target::Existing { format: Format::Raw, is_zero: true });
    testing::refused(parse, Q, "-n -O qcow2 -o cluster_size=4k x y", "-o describes a new disk");
    testing::refused(parse, Q, "--target-is-zero x y", "add -n");
    testing::refused(parse, Q, "-n --target-is-zero -O qcow2 -B b -F raw x y", "doesn't read as zeros");
    // qemu-img takes both and does nothing with them.
    existing("-n -O qcow2 -B b -F raw x y");
    existing("-n -O qcow2 -F raw x y");
    testing::refused(parse, K, "-n -O qcow2 -B b -F raw x y", "-B and -F describe a new disk");
}

#[test]
fn what_excludes_each_other() {
    testing::refused(parse, Q, "-C -c -O qcow2 x y", "-c must see the data");
    testing::refused(parse, Q, "-C -S 4k x y", "-S must see the data");
    testing::refused(parse, Q, "-C --salvage x y", "--salvage must see the data");
    testing::refused(parse, Q, "-c x y", "a raw disk can't be compressed");
    testing::refused(parse, Q, "-n -c x y", "a raw disk can't be compressed");
    testing::refused(parse, Q, "-c -O qcow2 -o preallocation=metadata x y", "-o preallocation exclude");
    testing::refused(parse, Q, "-c -O qcow2 -o data_file=d x y", "-o data_file exclude");
    new("-c -O qcow2 -o preallocation=off,compression_type=zstd x y");
    testing::refused(parse, Q, "x x", "source and target at once");
    testing::refused(parse, Q, "x y x", "source and target at once");
    testing::refused(parse, Q, "-B b -F raw x y", "a raw disk has no backing file");
    testing::refused(parse, Q, "-O qcow2 -B b x y", "format of the backing file b is missing");
    testing::refused(parse, Q, "-O qcow2 -F raw x y", "without a backing file");
    testing::refused(parse, Q, "-O qcow2 -B b -F raw -o preallocation=full x y", "hide the backing file");
}

#[test]
fn the_size_is_the_source_s() {
    assert_eq!(new("-O qcow2 -o size=8M x y").size, None);
    testing::refused(parse, K, "-O qcow2 -o size=8M x y", "as large as its source");
}

#[test]
fn a_backing_file_by_option_or_by_name() {
    let backing = |line: &str| match new(line).layout {
        Layout::Qcow2(qcow2) => qcow2.backing,
        Layout::Raw { .. } => None,
    };
    let want = Some(Backing { file: "b".into(), format: Format::Raw });
    assert_eq!(backing("-O qcow2 -B b -F raw x y"), want);
    assert_eq!(backing("-O qcow2 -o backing_file=b,backing_fmt=raw x y"), want);
}

#[test]
fn values_that_can_not_be_meant() {
    for line in ["-S 1000 x y", "-S x x y", "-S 17M x y", "-S -1 x y", "-m 0 x y", "-m 17 x y", "-m x x y", "-m 4k x y"]
    {
        testing::refused(parse, Q, line, "can't be meant");
    }
    for line in ["-r x x y", "-t bogus x y", "-T bogus x y", "-l snapshot.foo x y"] {
        testing::refused(parse, Q, line, "can't be meant");
    }
    testing::refused(parse, Q, "-O vmdk x y", "not yet: format vmdk");
    testing::refused(parse, Q, "-O bogus x y", "no format \"bogus\"");
    testing::refused(parse, Q, "-O qcow2 -o bogus=1 x y", "no option \"bogus\"");
    testing::refused(parse, Q, "x nbd:y", "protocol");
}

#[test]
fn lines_of_another_shape() {
    testing::refused(parse, Q, "", "a source and a target");
    testing::refused(parse, Q, "x", "a source and a target");
    testing::refused(parse, Q, "x y -6", "no option -6");
    for letter in ["-b", "-s", "-6", "-e"] {
        testing::refused(parse, Q, &format!("{letter} x y z"), &format!("no option {letter}"));
    }
    for option in ["--bitmaps", "--skip-broken-bitmaps", "--target-image-opts", "--image-opts", "--object"] {
        testing::refused(parse, Q, &format!("{option} x y"), &format!("not yet: {option}"));
    }
    testing::refused(parse, Q, "-n --targ x y", "--targ may be ");
    assert!(testing::printed(parse, Q, "-O qcow2 -o help").contains("cluster_size="));
}

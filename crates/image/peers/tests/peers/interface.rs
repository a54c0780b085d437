//! What the peers don't offer at all, by their public functions and types.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_image::qcow2::Create;
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::uring::Qcow2IoUring;
use qcow2_rs::utils::qcow2_setup_dev_sync;

use crate::scene::{Scene, still};

/// Where the source of a crate lies that this package is built with.
fn source(name: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = all["packages"].as_array().unwrap().iter().find(|package| package["name"] == name).unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("src")
}

/// Names of public functions in a crate that have one of these words in them.
fn functions(name: &str, words: &[&str]) -> Vec<String> {
    let (mut folders, mut found) = (vec![source(name)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            for line in std::fs::read_to_string(entry.path()).unwrap().lines() {
                let line = line.trim_start();
                let rest = line.strip_prefix("pub async fn ").or_else(|| line.strip_prefix("pub fn "));
                let name = rest.and_then(|rest| rest.split(['(', '<']).next()).unwrap_or_default();
                if words.iter().any(|word| name.contains(word)) {
                    found.push(name.to_owned());
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn qcow2_rs_has_no_discard_zero_resize_snapshot_or_repair() {
    // Those that it has look at a header or clear memory.
    assert!(functions("qcow2-rs", &["read_at"]).contains(&"read_at".into()));
    let words =
        ["discard", "trim", "zero", "resize", "truncate", "grow", "shrink", "snapshot", "repair", "commit", "rebase"];
    let found = functions("qcow2-rs", &words);
    let known = ["clone_and_grow", "is_zero", "nb_snapshots", "shrink_caches", "snapshots_offset", "zero_buf"];
    still(found == known, &format!("qcow2-rs has no discard, zero, resize, snapshot or repair: {found:?}"));
}

#[test]
fn imago_has_no_check_repair_snapshot_or_compressed_write() {
    assert!(functions("imago", &["resize"]).contains(&"resize".into()));
    let found = functions("imago", &["check_", "repair", "snapshot", "compress"]);
    // All of them read compressed clusters.
    let known = [
        "compressed_descriptor",
        "compressed_range",
        "compressed_read_guard",
        "is_compressed",
        "lock_compressed_read",
        "read_compressed",
    ];
    still(found == known, &format!("imago has no check, repair, snapshots or compressed writes: {found:?}"));
}

/// Asks whether a value may go to another thread, and whether other threads may use it: its own methods go before the
/// trait's, where its type has them.
struct Ask<'a, T>(PhantomData<&'a T>);

fn ask<T>(_: &T) -> Ask<'_, T> {
    Ask(PhantomData)
}

impl<T: Send> Ask<'_, T> {
    fn is_send(&self) -> bool {
        true
    }
}

impl<T: Sync> Ask<'_, T> {
    fn is_sync(&self) -> bool {
        true
    }
}

trait Otherwise {
    fn is_send(&self) -> bool {
        false
    }

    fn is_sync(&self) -> bool {
        false
    }
}

impl<T> Otherwise for Ask<'_, T> {}

#[test]
fn its_devices_serve_one_thread_and_their_requests_stay_on_theirs() {
    assert!(ask(&1).is_send() && ask(&1).is_sync(), "the question is answered wrongly");
    let scene = Scene::new();
    let path = scene.create("disk.qcow2", &Create { size: 1 << 20, ..Create::default() });
    let open = Qcow2DevParams::new(9, None, None, true, false);
    let device = qcow2_setup_dev_sync(&path, &open).unwrap();
    still(!ask(&device).is_sync(), "a device of qcow2-rs can't be used by several threads");
    let mut buffer = [0; 512];
    let request = device.read_at(&mut buffer, 0);
    still(!ask(&request).is_send(), "a request to qcow2-rs can't go to another thread");
    drop(request);
    // No io_uring is needed to ask about its type.
    let fast: Option<Qcow2Dev<Qcow2IoUring>> = None;
    still(!ask(&fast).is_send(), "a device of qcow2-rs over io_uring can't go to another thread");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a matter of release builds")]
fn a_release_build_with_qcow2_rs_logs_nothing() {
    // Cargo joins the features that a program's parts ask for, so log is built once, for all of them.
    still(
        log::STATIC_MAX_LEVEL == log::LevelFilter::Off,
        "qcow2-rs switches the logging of the whole release build off",
    );
}

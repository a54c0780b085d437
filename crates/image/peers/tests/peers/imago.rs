//! Faults of imago.

use std::os::unix::process::ExitStatusExt;

use kiln_image::qcow2::{Compression, Create};
use kiln_image::{Image, Open};
use kiln_peers::other;

use crate::scene::*;

#[test]
fn plain_and_compressed_images_are_read_right() {
    let scene = Scene::new();
    for cluster_bits in [9, 12, 16, 21] {
        let path = scene
            .create(&format!("{cluster_bits}.qcow2"), &Create { size: 4 << 20, cluster_bits, ..Create::default() });
        let mut contents = vec![0; 4 << 20];
        let bytes = Noise(5).bytes(2 << 20);
        contents[..2 << 20].copy_from_slice(&bytes);
        change(&path, |image| {
            write(image, &bytes, 0);
        });
        assert!(other::read(&path, u64::MAX).unwrap() == contents, "clusters of 2^{cluster_bits}");
        change(&path, |image| write_compressed(image, &bytes, 0));
        assert!(other::read(&path, u64::MAX).unwrap() == contents, "compressed clusters of 2^{cluster_bits}");
    }
}

#[test]
fn an_encrypted_image_is_opened_as_if_it_were_plain() {
    let scene = Scene::new();
    let path = encrypted(&scene);
    assert!(Image::open(&path, Open::reading(None)).is_err(), "kiln");
    still(
        other::read(&path, 4096).is_ok_and(|bytes| bytes != [0x5a; 4096] && bytes != [0; 4096]),
        "imago gives out an encrypted image's bytes as a disk",
    );
}

#[test]
fn a_backing_file_below_itself_overflows_the_stack() {
    const SIGABRT: i32 = 6;
    let scene = Scene::new();
    let name = Some((scene.path("a.qcow2").into(), Some("qcow2".into())));
    let b = scene.create("b.qcow2", &Create { size: 1 << 20, backing: name, ..Create::default() });
    let a = scene.create(
        "a.qcow2",
        &Create { size: 1 << 20, backing: Some((b.into(), Some("qcow2".into()))), ..Create::default() },
    );
    let error = Image::open(&a, Open::reading(None)).err().expect("kiln refuses it").to_string();
    assert!(error.contains("below itself"), "{error}");
    let output = apart(&["read", "imago"], &a);
    let said = String::from_utf8_lossy(&output.stderr);
    still(
        output.status.signal() == Some(SIGABRT) || output.status.code() == Some(128 + SIGABRT),
        &format!("imago overflows the stack on a loop of backing files ({}: {said})", output.status),
    );
    still(said.contains("overflowed its stack"), &format!("imago overflows the stack ({said})"));
}

#[test]
fn zstd_and_extended_l2_are_refused() {
    let scene = Scene::new();
    let plain = Create { size: 1 << 20, ..Create::default() };
    for (name, new) in [
        ("zstd", Create { compression: Compression::Zstd, ..plain.clone() }),
        ("extended L2", Create { extended_l2: true, ..plain.clone() }),
    ] {
        let path = scene.create(name, &new);
        assert!(kiln_reads(&path) == [0; 1 << 20], "kiln: {name}");
        still(other::read(&path, u64::MAX).is_err(), &format!("imago can't read images with {name}"));
    }
}

//! Copies have the same bytes on any number of cores.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::chain::{Image, Open};
use kiln_image::convert::{Before, Convert, Joined, convert};
use kiln_image::qcow2::Create;
use kiln_image::testing::Noise;
use kiln_image::{Access, Format};

use crate::scene::{Scene, check, opened};

fn copy(scene: &Scene, name: &str, create: &Create, compress: bool, workers: usize) -> Vec<u8> {
    let path = scene.create(name, create);
    let open = |name: &str, how| opened(|| Image::open(&scene.path(name), how));
    let target = open(name, Open { access: Access::Write, no_barriers: true, ..Open::writing(Some(Format::Qcow2)) });
    let stop = AtomicBool::new(false);
    let how = Convert {
        source: &Joined(vec![open("in.raw", Open::reading(Some(Format::Raw)))]),
        before: Before::Zeros,
        sparse: 4096,
        in_place: false,
        offload: false,
        compress,
        salvage: false,
        workers: NonZeroUsize::new(workers),
        rate_limit: None,
        stop: &stop,
        progress: &|_, _| {},
    };
    convert(&how, &target).unwrap();
    target.close().unwrap();
    drop(Arc::into_inner(target).unwrap());
    check(&path);
    std::fs::read(path).unwrap()
}

#[test]
fn copies_are_the_same_on_any_number_of_cores() {
    let scene = Scene::new();
    // Enough clusters that refcount tables grow and tables are written on the way, several times.
    let size = 160u64 << 20;
    let mut noise = Noise(7);
    let bytes: Vec<u8> =
        (0..size / 8).flat_map(|n| if n >> 15 & 3 == 1 { 0 } else { noise.next() >> 20 }.to_le_bytes()).collect();
    std::fs::write(scene.path("in.raw"), bytes).unwrap();
    for (cluster_bits, refcount_order, compress) in [(9, 6, false), (12, 4, false), (12, 6, true), (16, 4, false)] {
        let create = Create { size, cluster_bits, refcount_order, ..Create::default() };
        let name = |workers| format!("{cluster_bits}-{compress}-{workers}.qcow2");
        let one = copy(&scene, &name(1), &create, compress, 1);
        for workers in [2, 8] {
            let several = copy(&scene, &name(workers), &create, compress, workers);
            assert!(several == one, "2^{cluster_bits}, {workers} workers");
        }
    }
}

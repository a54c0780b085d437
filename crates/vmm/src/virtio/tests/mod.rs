//! Virtio devices driven through their registers and rings, as a guest drives them, without /dev/kvm.

mod blk;
mod broken;
mod console;
mod net;
mod rng;
mod transport;

//! What stands behind the contracts in tests and fuzzers: recorders in place of `/dev/kvm`.

mod disk;
mod driver;
mod levels;
mod messages;
mod scratch;

pub use disk::MemoryDisk;
pub use driver::{DATA, Driver, Piece};
pub use levels::Levels;
pub use messages::{Messages, message_log};
pub use scratch::ScratchFunction;

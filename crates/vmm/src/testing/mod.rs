//! What stands behind the contracts in tests and fuzzers: recorders in place of `/dev/kvm`.

mod levels;
mod messages;
mod scratch;

pub use levels::Levels;
pub use messages::{Messages, message_log};
pub use scratch::ScratchFunction;

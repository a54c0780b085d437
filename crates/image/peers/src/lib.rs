//! Other crates that read and write qcow2, behind kiln's own block trait.
//!
//! Nothing of kiln uses this package. It shows what docs/decisions/qcow2.md says: the tests in `tests/peers` hold what the
//! peers do right and wrong, and `cargo xtask bench image` measures one of them. `cargo xtask peers` builds and runs it.

pub mod adapter;
pub mod other;

//! qcow2 images, versions 2 and 3.
//!
//! | part | file |
//! |---|---|
//! | numbers of the format | `bits.rs` |
//! | header, extensions | `header.rs` |
//! | arithmetic, L2 entries | `layout.rs` |
//! | pieces of tables in memory | `cache.rs` |
//! | refcounts, free clusters | `refcount.rs` |
//! | L1, L2 and refcount tables, and the order in which they are written | `tables.rs` |
//! | an open image | `image.rs`, `read.rs`, `write.rs`, `compress.rs` |
//! | a new one | `create.rs` |
//! | bitmaps | `bitmaps.rs` |
//! | mistakes, for tests | `fault.rs` |

pub mod bitmaps;
pub mod bits;
mod bytes;
mod cache;
pub mod check;
pub mod compress;
pub mod create;
pub mod fault;
pub mod header;
pub mod image;
pub mod layout;
pub mod read;
mod refcount;
mod shape;
pub mod snapshots;
mod tables;
mod write;

pub use create::{Create, Preallocation};
pub use header::{Compression, Header};
pub use image::{Options, Qcow2};

//! What is defined and what runs: the store, its locks, and the way to a machine's process.

pub mod bases;
pub mod definition;
pub mod folders;
pub mod known;
pub mod lock;
pub mod name;
pub mod running;
pub mod storage;
pub mod store;
pub mod validate;

pub use folders::Folders;
pub use known::Known;
pub use store::Store;

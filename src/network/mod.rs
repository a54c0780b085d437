//! Networks that cards are plugged into: so far one kind, which every user has and nobody needs to be root for.

pub mod settings;
pub mod user;

pub use settings::{Forward, Lease, Protocol, Settings};

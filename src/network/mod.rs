//! Networks that cards are plugged into: so far one kind, which every user has and nobody needs to be root for.

pub mod interface;
pub mod settings;
pub mod user;

pub use interface::{Interface, Kind, PortForward};
pub use settings::{Forward, Lease, Protocol, Settings};

//! libvirt domain XML.
//!
//! * [`xml`]: a lossless tree. What isn't edited comes out byte for byte as it went in, unknown elements included.
//! * [`domain`]: what a domain document says, typed.
//! * [`address`]: PCI addresses: read, checked, and given where they are missing.
//!
//! It knows nothing of hosts, stores or monitors.

pub mod address;

pub mod domain;
pub mod xml;

pub use domain::{Domain, DomainError};

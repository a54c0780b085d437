//! Devices of a domain document.

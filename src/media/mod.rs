//! What a machine is made from: fetched, checked, and put where it is needed.

pub mod fetch;

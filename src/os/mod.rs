//! What can be installed: install trees, recognised by their layout.

pub mod tree;

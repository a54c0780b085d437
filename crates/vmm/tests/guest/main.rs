//! Whole machines with Debian's cloud kernel in them.

mod boot;
mod devices;
mod ends;
mod lives;
mod story;

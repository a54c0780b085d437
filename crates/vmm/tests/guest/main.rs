//! Whole machines with Debian's cloud kernel in them.

mod boot;
mod ends;
mod lives;
mod story;

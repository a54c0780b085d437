//! What depends on the processor's architecture. There is one so far.

pub mod x86_64;

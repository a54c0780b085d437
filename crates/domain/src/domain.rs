//! What a domain document says, typed.

//! Numbers that look random and are the same each time.

/// A small generator of repeatable noise (xorshift64). Its seed must not be 0.
pub struct Noise(pub u64);

impl Noise {
    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends, and nobody goes through it")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

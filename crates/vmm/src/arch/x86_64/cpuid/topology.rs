//! How processors are numbered: sockets, dies, cores and threads packed into APIC ids.
//!
//! Each level takes as many bits as its count needs, so ids may have gaps (Intel SDM volume 3, 10.9.3).

use super::super::MAX_VCPUS;

/// Counts per level: dies in a socket, cores in a die, threads in a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Topology {
    /// Sockets in the machine.
    pub sockets: u32,
    /// Dies in each socket.
    pub dies: u32,
    /// Cores in each die.
    pub cores: u32,
    /// Threads in each core.
    pub threads: u32,
}

/// A topology that no machine can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// One of the counts is zero.
    #[error("a topology needs at least one socket, die, core and thread")]
    Zero,
    /// More processors than the limit.
    #[error("{0} virtual CPUs were asked for; the most that a machine can have is {MAX_VCPUS}")]
    TooMany(u64),
}

/// How many bits of the APIC id lie below each level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shifts {
    /// Bits of the thread's number in its core.
    pub core: u32,
    /// Bits of the thread's number in its die.
    pub die: u32,
    /// Bits of the thread's number in its socket.
    pub socket: u32,
}

impl Topology {
    /// As many sockets as processors, each with one core.
    pub fn flat(processors: u32) -> Self {
        Self { sockets: processors, dies: 1, cores: 1, threads: 1 }
    }

    /// One socket with as many cores as processors.
    pub fn one_socket(processors: u32) -> Self {
        Self { sockets: 1, dies: 1, cores: processors, threads: 1 }
    }

    /// Says what is wrong with it.
    ///
    /// # Errors
    /// When a count is zero or the processors are more than [`MAX_VCPUS`].
    pub fn check(&self) -> Result<(), TopologyError> {
        let counts = [self.sockets, self.dies, self.cores, self.threads];
        if counts.contains(&0) {
            return Err(TopologyError::Zero);
        }
        let total = counts.iter().fold(1u64, |product, n| product.saturating_mul(u64::from(*n)));
        if total > u64::from(MAX_VCPUS) { Err(TopologyError::TooMany(total)) } else { Ok(()) }
    }

    /// Number of processors. Only of a checked topology.
    pub fn processors(&self) -> u32 {
        self.sockets.saturating_mul(self.threads_per_socket())
    }

    /// Threads in a die.
    pub fn threads_per_die(&self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }

    /// Threads in a socket.
    pub fn threads_per_socket(&self) -> u32 {
        self.dies.saturating_mul(self.threads_per_die())
    }

    /// Where the levels lie in the APIC id.
    pub fn shifts(&self) -> Shifts {
        let core = bits(self.threads);
        let die = core + bits(self.cores);
        Shifts { core, die, socket: die + bits(self.dies) }
    }

    /// APIC id of the `n`th processor: threads count fastest.
    pub fn apic_id(&self, n: u32) -> u32 {
        let over = |n: u32, count: u32| (n.checked_div(count).unwrap_or(0), n.checked_rem(count).unwrap_or(0));
        let (rest, thread) = over(n, self.threads);
        let (rest, core) = over(rest, self.cores);
        let (socket, die) = over(rest, self.dies);
        let shifts = self.shifts();
        socket << shifts.socket | die << shifts.die | core << shifts.core | thread
    }
}

// Bits that numbers below `count` take.
fn bits(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_take_the_bits_they_need() {
        let topology = Topology { sockets: 2, dies: 3, cores: 3, threads: 2 };
        assert_eq!(topology.shifts(), Shifts { core: 1, die: 3, socket: 5 });
        let ids: Vec<_> = (0..8).map(|n| topology.apic_id(n)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9]);
        assert_eq!(topology.apic_id(18), 1 << 5);
    }

    #[test]
    fn every_id_of_every_machine_fits_an_8_bit_apic() {
        for sockets in 1..=64u32 {
            for dies in 1..=64 / sockets {
                for cores in 1..=64 / (sockets * dies) {
                    for threads in 1..=64 / (sockets * dies * cores) {
                        let topology = Topology { sockets, dies, cores, threads };
                        topology.check().unwrap();
                        let ids: Vec<_> = (0..topology.processors()).map(|n| topology.apic_id(n)).collect();
                        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{topology:?}");
                        assert!(ids.iter().all(|id| *id < 255), "{topology:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_and_too_much_are_refused_with_the_limit() {
        assert_eq!(Topology::flat(0).check(), Err(TopologyError::Zero));
        let refused = Topology::flat(65).check().unwrap_err();
        assert_eq!(refused.to_string(), "65 virtual CPUs were asked for; the most that a machine can have is 64");
        let huge = Topology { sockets: u32::MAX, dies: u32::MAX, cores: u32::MAX, threads: u32::MAX };
        assert_eq!(huge.check(), Err(TopologyError::TooMany(u64::MAX)));
        Topology::flat(64).check().unwrap();
    }
}

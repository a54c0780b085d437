//! Mistakes in the order of writes that tests switch on, to see that the power-fail model catches them.
//!
//! In a normal build none can be switched on, and asking for one is a constant.

/// A mistake that loses data when the power fails at the wrong moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// L2 tables are durable before the refcounts of what they refer to.
    L2BeforeRefcounts,
    /// L2 tables are durable before the guest's data.
    L2BeforeData,
    /// L2 tables are durable before what is copied around the guest's data from the old cluster or the backing file.
    L2BeforeCopiedData,
    /// A cluster is given out again before the write that freed it is durable.
    EarlyReuse,
    /// The header names a snapshot table that isn't written yet.
    HeaderBeforeSnapshotTable,
}

#[cfg(any(test, feature = "testing"))]
mod switch {
    use super::Fault;

    /// The fault that is on, if any.
    #[derive(Default)]
    pub struct Faults(Option<Fault>);

    impl Faults {
        /// Whether the fault is on.
        pub fn has(&self, fault: Fault) -> bool {
            self.0 == Some(fault)
        }
    }

    impl super::super::image::Qcow2 {
        /// Makes the mistake from now on.
        pub fn inject(&self, fault: Fault) {
            self.tables.lock().faults = Faults(Some(fault));
        }
    }
}

#[cfg(not(any(test, feature = "testing")))]
mod switch {
    /// None.
    #[derive(Default)]
    pub struct Faults {}

    impl Faults {
        /// Never.
        #[inline]
        pub const fn has(&self, _: super::Fault) -> bool {
            false
        }
    }
}

pub(super) use switch::Faults;

//! One KVM guest from one [configuration](config): a q35-shaped PC.
//!
//! The crate knows nothing of domain XML, stores or command lines. It is given opened files and backends, never
//! paths, and it is the only crate of the workspace where `unsafe` is legal.
//!
//! Every device rests on the same five contracts, none of which needs `/dev/kvm`, so that devices run in plain
//! tests and fuzzers too:
//!
//! * [`device::Device`]: the lifecycle (reset, pause, resume, save, restore, unplug), apart from I/O;
//! * [`bus::BusDevice`]: port and memory accesses, as offsets into the device's own range;
//! * [`irq`]: wires (GSIs) and messages (MSI);
//! * [`doorbell`]: guest writes that become an event without leaving the kernel;
//! * [`memory::GuestRam`]: guest memory, every host write to which is dirty-tracked.

pub mod acpi;
pub mod arch;
pub mod boot;
pub mod bus;
pub mod chipset;
pub mod config;
pub mod device;
pub mod display;
pub mod doorbell;
pub mod firmware;
pub mod irq;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod power;
pub mod probe;
pub mod smbios;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod thread;
pub mod time;
pub mod virtio;

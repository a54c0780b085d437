//! The section of devices that PCs have always had. Each can be left out.

/// Devices of the first PCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Legacy {
    /// Serial ports, COM1 first; at most four.
    pub serials: usize,
    /// Keyboard controller with keyboard and mouse.
    pub ps2: bool,
    /// Clock and non-volatile memory.
    pub rtc: Option<Rtc>,
    /// Speaker port (0x61); it makes no sound.
    pub speaker: bool,
}

/// The real-time clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rtc {
    /// What it shows, in seconds east of UTC: 0, or the host's offset for guests that want local time.
    pub offset: i64,
}

impl Legacy {
    /// A full PC.
    pub fn full() -> Self {
        Self { serials: 1, ps2: true, rtc: Some(Rtc::default()), speaker: true }
    }

    /// One serial port and nothing else, for direct boots of Linux.
    pub fn small() -> Self {
        Self { serials: 1, ps2: false, rtc: None, speaker: false }
    }
}

//! Numbers of the standard VGA card's extensions.
//!
//! Sources: QEMU, docs/specs/standard-vga.rst (PCI regions, EDID, endian register); the Bochs VBE extensions
//! ("dispi") as QEMU's and Bochs' guests use them; IBM VGA register numbers.

/// PCI id of the card.
pub const VENDOR: u16 = 0x1234;
/// PCI id of the card.
pub const DEVICE: u16 = 0x1111;
/// Revision that tells guests of BAR 2's registers.
pub const REVISION: u8 = 2;
/// Video memory in bytes.
pub const VIDEO_MEMORY: usize = 16 << 20;
/// Length of BAR 2.
pub const REGISTERS: u64 = 0x1000;

/// BAR 2: EDID data.
pub const EDID: u64 = 0x000;
/// BAR 2: room for EDID data.
pub const EDID_ROOM: u64 = 0x400;
/// BAR 2: VGA ports 0x3c0 to 0x3df.
pub const VGA: u64 = 0x400;
/// BAR 2: end of the VGA ports.
pub const VGA_END: u64 = VGA + 0x20;
/// BAR 2: dispi registers, 16 bits each.
pub const DISPI: u64 = 0x500;
/// BAR 2: end of the dispi registers.
pub const DISPI_END: u64 = DISPI + dispi::COUNT as u64 * 2;
/// BAR 2: QEMU's own registers: the size of this block, then the framebuffer's byte order.
pub const EXTENDED: u64 = 0x600;
/// BAR 2: end of QEMU's own registers.
pub const EXTENDED_END: u64 = EXTENDED + 8;
/// Byte order register's value: little-endian.
pub const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

/// Dispi register numbers.
pub mod dispi {
    /// Version of the interface.
    pub const ID: usize = 0;
    /// Visible width.
    pub const XRES: usize = 1;
    /// Visible height.
    pub const YRES: usize = 2;
    /// Bits per pixel.
    pub const BPP: usize = 3;
    /// Flags below.
    pub const ENABLE: usize = 4;
    /// Bank of the 64 KiB window.
    pub const BANK: usize = 5;
    /// Width of a line in memory.
    pub const VIRT_WIDTH: usize = 6;
    /// Lines in memory; read-only.
    pub const VIRT_HEIGHT: usize = 7;
    /// First visible column.
    pub const X_OFFSET: usize = 8;
    /// First visible line.
    pub const Y_OFFSET: usize = 9;
    /// Video memory in units of 64 KiB; read-only.
    pub const VIDEO_MEMORY_64K: usize = 10;
    /// How many there are.
    pub const COUNT: usize = 11;

    /// Newest version.
    pub const ID_NEWEST: u16 = 0xb0c5;
    /// Oldest version; a guest may write any one in between and read it back.
    pub const ID_OLDEST: u16 = 0xb0c0;
    /// ENABLE: the mode is on.
    pub const ENABLED: u16 = 0x01;
    /// ENABLE: XRES, YRES and BPP read the largest values.
    pub const GET_CAPS: u16 = 0x02;
    /// ENABLE: the palette has 8 bits a colour.
    pub const DAC_8BIT: u16 = 0x20;
    /// ENABLE: linear framebuffer.
    pub const LINEAR: u16 = 0x40;
    /// ENABLE: video memory is kept when the mode is set.
    pub const NO_CLEAR: u16 = 0x80;
    /// Widest mode.
    pub const MAX_X: u16 = 16000;
    /// Highest mode.
    pub const MAX_Y: u16 = 12000;
    /// Deepest mode.
    pub const MAX_BPP: u16 = 32;
}

/// VGA port offsets from 0x3c0.
pub mod vga {
    /// Attribute controller: index and data in turn.
    pub const ATTRIBUTE: u64 = 0x00;
    /// Attribute controller: data, reading.
    pub const ATTRIBUTE_READ: u64 = 0x01;
    /// Input status 0 (reading), miscellaneous output (writing).
    pub const MISC_WRITE: u64 = 0x02;
    /// Sequencer index; data follows.
    pub const SEQUENCER: u64 = 0x04;
    /// DAC mask.
    pub const DAC_MASK: u64 = 0x06;
    /// DAC read index (writing), state (reading).
    pub const DAC_READ: u64 = 0x07;
    /// DAC write index.
    pub const DAC_WRITE: u64 = 0x08;
    /// DAC data.
    pub const DAC_DATA: u64 = 0x09;
    /// Miscellaneous output, reading.
    pub const MISC_READ: u64 = 0x0c;
    /// Graphics controller index; data follows.
    pub const GRAPHICS: u64 = 0x0e;
    /// CRT controller index in colour modes; data follows.
    pub const CRTC: u64 = 0x14;
    /// Input status 1 in colour modes.
    pub const STATUS_1: u64 = 0x1a;
    /// Attribute index: the palette is in use and the screen shows.
    pub const ATTRIBUTE_SHOW: u8 = 0x20;
    /// Input status 1: display off, and vertical retrace.
    pub const RETRACE: u8 = 0x09;
}

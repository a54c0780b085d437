//! Offsets and flags of the two direct boot protocols.
//!
//! * Linux: `Documentation/arch/x86/boot.rst` and `zero-page.rst`.
//! * PVH: `xen/include/public/arch-x86/hvm/start_info.h`; ELF: System V ABI, "Object Files".

/// Setup sectors of 512 bytes after the boot sector; 0 means 4.
pub const SETUP_SECTS: usize = 0x1f1;
/// Always [`BOOT_MAGIC`].
pub const BOOT_FLAG: usize = 0x1fe;
/// Value of the boot flag.
pub const BOOT_MAGIC: u16 = 0xaa55;
/// Length of the header past 0x202.
pub const HEADER_LEN: usize = 0x201;
/// Where the header's magic stands.
pub const HEADER: usize = 0x202;
/// The header's magic, "HdrS".
pub const HEADER_MAGIC: u32 = 0x5372_6448;
/// Protocol version.
pub const VERSION: usize = 0x206;
/// First version with a 64-bit entry.
pub const VERSION_64BIT: u16 = 0x20c;
/// Who loads: 0xff is "somebody without a number".
pub const TYPE_OF_LOADER: usize = 0x210;
/// Flags.
pub const LOADFLAGS: usize = 0x211;
/// Loadflags: the kernel is loaded high.
pub const LOADED_HIGH: u8 = 1;
/// Initrd's address, low half.
pub const RAMDISK_IMAGE: usize = 0x218;
/// Initrd's length, low half.
pub const RAMDISK_SIZE: usize = 0x21c;
/// Command line's address.
pub const CMD_LINE_PTR: usize = 0x228;
/// Highest address that an initrd may occupy.
pub const INITRD_ADDR_MAX: usize = 0x22c;
/// Flags of newer versions.
pub const XLOADFLAGS: usize = 0x236;
/// Xloadflags: the 64-bit entry stands at 0x200.
pub const XLF_KERNEL_64: u16 = 1;
/// Longest command line, without the NUL.
pub const CMDLINE_SIZE: usize = 0x238;
/// Where the kernel would like to be.
pub const PREF_ADDRESS: usize = 0x258;
/// Memory that it needs from there on until it has read the memory map.
pub const INIT_SIZE: usize = 0x260;
/// The 64-bit entry's offset into the loaded kernel.
pub const ENTRY_64: u64 = 0x200;

/// Boot parameters: RSDP's address.
pub const ACPI_RSDP: usize = 0x70;
/// Boot parameters: number of memory ranges.
pub const E820_ENTRIES: usize = 0x1e8;
/// Boot parameters: the memory ranges, 20 bytes each.
pub const E820_TABLE: usize = 0x2d0;
/// Most memory ranges that the boot parameters hold.
pub const E820_MAX: usize = 128;
/// Length of the boot parameters.
pub const BOOT_PARAMS_LEN: usize = 4096;

/// Magic of an ELF file.
pub const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// `e_ident[EI_CLASS]`: 64-bit.
pub const ELF_CLASS64: u8 = 2;
/// `e_ident[EI_DATA]`: little-endian.
pub const ELF_LITTLE: u8 = 1;
/// `e_machine`: x86-64.
pub const ELF_X86_64: u16 = 62;
/// `p_type`: loaded.
pub const PT_LOAD: u32 = 1;
/// `p_type`: notes.
pub const PT_NOTE: u32 = 4;
/// Note of the owner "Xen": the 32-bit PVH entry.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Magic of the start info.
pub const START_INFO_MAGIC: u32 = 0x336e_c578;

/// Where the PVH start info stands.
pub const START_INFO: u64 = 0x6000;
/// Where the boot parameters stand.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Where the command line stands.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line.
pub const CMDLINE_ROOM: u64 = 0x1_0000;

/// Screen information: kind of screen (boot parameters begin with it).
pub const SCREEN_IS_VGA: usize = 0x0f;
/// A linear framebuffer by VESA.
pub const VIDEO_TYPE_VLFB: u8 = 0x23;
/// Screen information: width in pixels.
pub const SCREEN_WIDTH: usize = 0x12;
/// Screen information: height in pixels.
pub const SCREEN_HEIGHT: usize = 0x14;
/// Screen information: bits per pixel.
pub const SCREEN_DEPTH: usize = 0x16;
/// Screen information: address of the framebuffer.
pub const SCREEN_BASE: usize = 0x18;
/// Screen information: its length.
pub const SCREEN_SIZE: usize = 0x1c;
/// Screen information: bytes of a line.
pub const SCREEN_STRIDE: usize = 0x24;
/// Screen information: size and position of red, green, blue and the rest, a byte each.
pub const SCREEN_COLOURS: usize = 0x26;

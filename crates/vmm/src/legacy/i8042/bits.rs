//! Commands and bits of the keyboard controller and of PS/2 devices.
//!
//! IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller", "Keyboard", "Mouse";
//! Microsoft's IntelliMouse protocol.

/// Status: a byte waits at port 0x60.
pub const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: self-test passed.
pub const STATUS_SYSTEM: u8 = 1 << 2;
/// Status: the last write was a command.
pub const STATUS_COMMAND: u8 = 1 << 3;
/// Status: the keyboard isn't locked.
pub const STATUS_UNLOCKED: u8 = 1 << 4;
/// Status: the waiting byte is the mouse's.
pub const STATUS_AUX: u8 = 1 << 5;

/// Command byte: keyboard bytes interrupt (IRQ 1).
pub const CCB_KEYBOARD_INTERRUPT: u8 = 1 << 0;
/// Command byte: mouse bytes interrupt (IRQ 12).
pub const CCB_AUX_INTERRUPT: u8 = 1 << 1;
/// Command byte: shown as the status' system flag.
pub const CCB_SYSTEM: u8 = 1 << 2;
/// Command byte: the keyboard is off.
pub const CCB_KEYBOARD_OFF: u8 = 1 << 4;
/// Command byte: the mouse is off.
pub const CCB_AUX_OFF: u8 = 1 << 5;
/// Command byte: scan codes are translated from set 2 to set 1.
pub const CCB_TRANSLATE: u8 = 1 << 6;

/// Controller commands.
pub mod controller {
    pub const READ_RAM: u8 = 0x20;
    pub const READ_RAM_LAST: u8 = 0x3f;
    pub const WRITE_RAM: u8 = 0x60;
    pub const WRITE_RAM_LAST: u8 = 0x7f;
    pub const AUX_OFF: u8 = 0xa7;
    pub const AUX_ON: u8 = 0xa8;
    pub const AUX_TEST: u8 = 0xa9;
    pub const SELF_TEST: u8 = 0xaa;
    pub const KEYBOARD_TEST: u8 = 0xab;
    pub const KEYBOARD_OFF: u8 = 0xad;
    pub const KEYBOARD_ON: u8 = 0xae;
    pub const READ_INPUT_PORT: u8 = 0xc0;
    pub const READ_OUTPUT_PORT: u8 = 0xd0;
    pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
    pub const WRITE_AUX_BUFFER: u8 = 0xd3;
    pub const WRITE_AUX: u8 = 0xd4;
    /// From here on the low four bits name the output lines that are pulsed low.
    pub const PULSE: u8 = 0xf0;

    /// Answer to the self-test.
    pub const SELF_TEST_PASSED: u8 = 0x55;
    /// Answer to the tests of both interfaces.
    pub const INTERFACE_WORKS: u8 = 0x00;
    /// Output port: reset, active low.
    pub const OUTPUT_RESET: u8 = 1 << 0;
    /// Output port: address line 20.
    pub const OUTPUT_A20: u8 = 1 << 1;
    /// Output port: IRQ 1 and IRQ 12.
    pub const OUTPUT_INTERRUPTS: [u8; 2] = [1 << 4, 1 << 5];
    /// Output port: clock and data of the keyboard, idle.
    pub const OUTPUT_IDLE: u8 = 0xc0;
    /// Input port: keyboard not locked, colour display.
    pub const INPUT_PORT: u8 = 0x80;
}

/// What both devices answer.
pub const ACK: u8 = 0xfa;
/// What both devices answer to nonsense.
pub const RESEND: u8 = 0xfe;
/// Self-test passed.
pub const TEST_PASSED: u8 = 0xaa;

/// Device commands; keyboard and mouse share some.
pub mod device {
    pub const SET_SCALING_1_1: u8 = 0xe6;
    pub const SET_SCALING_2_1: u8 = 0xe7;
    pub const SET_RESOLUTION: u8 = 0xe8;
    pub const STATUS_REQUEST: u8 = 0xe9;
    pub const STREAM: u8 = 0xea;
    pub const READ_DATA: u8 = 0xeb;
    pub const UNWRAP: u8 = 0xec;
    pub const SET_LEDS: u8 = 0xed;
    pub const ECHO: u8 = 0xee;
    pub const WRAP: u8 = 0xee;
    pub const SCAN_CODE_SET: u8 = 0xf0;
    pub const REMOTE: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const SET_RATE: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const DEFAULTS: u8 = 0xf6;
    pub const RESEND: u8 = 0xfe;
    pub const RESET: u8 = 0xff;
}

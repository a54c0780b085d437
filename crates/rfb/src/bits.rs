//! Numbers of the RFB protocol. Section numbers are RFC 6143's; others come from the community's rfbproto document.

/// 7.1.1: the version this server offers.
pub const VERSION_3_8: &[u8; 12] = b"RFB 003.008\n";

/// 7.1.2: security types.
pub mod security {
    /// Tells that the connection fails; a reason follows.
    pub const INVALID: u8 = 0;
    /// 7.2.1
    pub const NONE: u8 = 1;
    /// 7.2.2
    pub const VNC_AUTH: u8 = 2;
    /// 7.1.3: SecurityResult.
    pub const OK: u32 = 0;
    /// 7.1.3
    pub const FAILED: u32 = 1;
}

/// 7.5: client to server messages.
pub mod client {
    /// 7.5.1
    pub const SET_PIXEL_FORMAT: u8 = 0;
    /// 7.5.2
    pub const SET_ENCODINGS: u8 = 2;
    /// 7.5.3
    pub const UPDATE_REQUEST: u8 = 3;
    /// 7.5.4
    pub const KEY_EVENT: u8 = 4;
    /// 7.5.5
    pub const POINTER_EVENT: u8 = 5;
    /// 7.5.6
    pub const CUT_TEXT: u8 = 6;
    /// rfbproto, "QEMU Client Message".
    pub const QEMU: u8 = 255;
    /// rfbproto, "QEMU Extended Key Event Message": submessage type.
    pub const QEMU_EXTENDED_KEY: u8 = 0;
}

/// 7.6: server to client messages.
pub mod server {
    /// 7.6.1
    pub const FRAMEBUFFER_UPDATE: u8 = 0;
}

/// 7.7 and 7.8: encodings and pseudo-encodings.
pub mod encoding {
    /// 7.7.1
    pub const RAW: i32 = 0;
    /// 7.7.2
    pub const COPY_RECT: i32 = 1;
    /// 7.7.4
    pub const HEXTILE: i32 = 5;
    /// 7.7.6
    pub const ZRLE: i32 = 16;
    /// 7.8.1
    pub const CURSOR: i32 = -239;
    /// 7.8.2
    pub const DESKTOP_SIZE: i32 = -223;
    /// rfbproto, "QEMU Pointer Motion Change Pseudo-encoding".
    pub const QEMU_POINTER_TYPE: i32 = -257;
    /// rfbproto, "QEMU Extended Key Event Pseudo-encoding".
    pub const QEMU_EXTENDED_KEY: i32 = -258;
    /// rfbproto, "QEMU LED State Pseudo-encoding".
    pub const QEMU_LED_STATE: i32 = -261;
}

/// 7.7.4: Hextile's subencoding mask.
pub mod hextile {
    /// Edge of a tile in pixels.
    pub const EDGE: u32 = 16;
    /// All pixels follow; the other bits mean nothing.
    pub const RAW: u8 = 1;
    /// The background's colour follows.
    pub const BACKGROUND: u8 = 2;
    /// The colour of all rectangles follows.
    pub const FOREGROUND: u8 = 4;
    /// A count and so many rectangles follow.
    pub const ANY_SUBRECTS: u8 = 8;
    /// Each rectangle has its colour before it.
    pub const SUBRECTS_COLOURED: u8 = 16;
}

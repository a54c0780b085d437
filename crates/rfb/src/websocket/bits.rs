//! Numbers of the WebSocket protocol (RFC 6455).

/// 5.2: first byte of a frame.
pub mod first {
    /// The message ends with this frame.
    pub const FIN: u8 = 0x80;
    /// Must be clear: no extension is offered.
    pub const RESERVED: u8 = 0x70;
    /// Opcode.
    pub const OPCODE: u8 = 0x0f;
}

/// 5.2: second byte of a frame.
pub mod second {
    /// The payload is masked, as a client's always is.
    pub const MASK: u8 = 0x80;
    /// A length of 16 bits follows.
    pub const LENGTH_16: u8 = 126;
    /// A length of 64 bits follows.
    pub const LENGTH_64: u8 = 127;
}

/// 5.2 and 11.8: opcodes.
pub mod opcode {
    /// Goes on with a message.
    pub const CONTINUATION: u8 = 0;
    /// Begins a message of text.
    pub const TEXT: u8 = 1;
    /// Begins a message of bytes.
    pub const BINARY: u8 = 2;
    /// This and what lies above are control frames (5.5).
    pub const CLOSE: u8 = 8;
    /// 5.5.2
    pub const PING: u8 = 9;
    /// 5.5.3
    pub const PONG: u8 = 10;
}

/// 7.4.1: why a connection is closed.
pub mod status {
    /// The frames can't be followed.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Text, where bytes are spoken.
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// A frame is longer than the server takes.
    pub const TOO_BIG: u16 = 1009;
}

/// 5.5: longest payload of a control frame.
pub const LONGEST_CONTROL: u64 = 125;

/// 1.3: what the server appends to a client's key before it takes the hash.
pub const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

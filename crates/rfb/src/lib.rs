//! A VNC server (RFB 3.3, 3.7, 3.8: RFC 6143). Shows any [`FrameSource`] over any [`Stream`] and hands keys and
//! pointer to any [`Input`].
//!
//! It knows nothing of virtual machines. It listens nowhere by itself: whoever owns the sockets hands over accepted
//! streams ([`Server::serve`], [`Server::serve_websocket`]). Threads are made by the owner's [`Spawn`]: while no client is
//! there, there is none, no timer and no copy of the screen.
//!
//! Offered: security None and VNC authentication; Raw, CopyRect (for what scrolls), Hextile and ZRLE; DesktopSize, Cursor
//! (always empty: the guest draws its own), QEMU extended key events, pointer type and LED state; any true-colour format
//! of 8, 16 or 32 bits. The desktop is always shared: a client that asks for it alone gets it together with the others.

mod auth;
mod bits;
#[cfg(test)]
mod chance;
mod client;
mod encoding;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod handshake;
mod message;
mod pixel;
mod region;
mod screen;
mod scroll;
mod server;
#[cfg(test)]
mod slow_clients;
mod stream;
pub mod viewer;
mod want;
mod websocket;

pub use auth::{Password, PasswordLength};
pub use region::{Rect, Size};
pub use server::{Server, Settings, Spawn};
pub use stream::Stream;

/// A picture that changes.
///
/// Pixels are `0x00RRGGBB`. Calls come from the server's threads, one at a time.
pub trait FrameSource: Send + Sync {
    /// Its size now. May change at any time.
    fn size(&self) -> Size;
    /// Begins or ends tracking of changes. Begun anew, nothing has changed yet.
    fn watch(&self, on: bool);
    /// Adds the areas that may have changed since the last call, coarse as may be; what is outside the screen is
    /// ignored.
    fn changes(&self, areas: &mut Vec<Rect>);
    /// Copies the pixels of `area`, row by row without gaps, into `to` (`area.w * area.h` long). Says no, and leaves
    /// `to` as it likes, when the area doesn't lie inside the screen as it is now.
    fn copy(&self, area: Rect, to: &mut [u32]) -> bool;
}

/// What takes keys and pointer.
///
/// Calls come from clients' threads, several at once. What a client held down when it went is released.
pub trait Input: Send + Sync {
    /// A key by its X keysym.
    fn key(&self, keysym: u32, down: bool);
    /// A key by its XT scancode, extended ones with bit 7 set (the `QEMU extended key event`'s form).
    fn scancode(&self, scancode: u32, down: bool);
    /// The pointer's place in pixels and its buttons (bits 0-2: left, middle, right; 3 and 4: wheel up, down).
    fn pointer(&self, x: u16, y: u16, buttons: u8);
    /// How far the pointer went in pixels, right and down, and its buttons: from clients that know the pointer to be
    /// [`Pointer::Relative`].
    fn motion(&self, right: i32, down: i32, buttons: u8);
}

/// What the guest's pointing device understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer {
    /// Positions, as a tablet's.
    Absolute,
    /// Motion only, as a mouse's.
    Relative,
}

//! The display.

use crate::display::VideoMemory;
use crate::pci::Place;

/// A display card.
#[derive(Debug, Clone)]
pub struct Display {
    /// Where it is plugged.
    pub place: Place,
    /// Its memory. Whoever restores a saved machine hands in what the other life had.
    pub memory: VideoMemory,
}

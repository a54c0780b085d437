//! What a frame's sender has left to do, as a packet's header says it (VIRTIO 1.2, 5.1.6).

use super::bits::*;

/// A checksum that is yet to be filled in, as the Internet's protocols have it (RFC 1071). The field holds the
/// pseudo header's sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Offset of the first byte that is summed; all from there on are.
    pub start: u16,
    /// Offset of the field, from `start`.
    pub field: u16,
}

/// Internet protocol of a large TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A TCP segment larger than the link takes, to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Large {
    /// Protocol below TCP.
    pub family: Family,
    /// Payload bytes of each piece.
    pub size: u16,
    /// Bytes of all headers.
    pub headers: u16,
}

/// What is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum that is missing.
    pub checksum: Option<Partial>,
    /// The frame is to be cut.
    pub large: Option<Large>,
    /// Its checksum was looked at and is right.
    pub valid: bool,
}

/// What a driver takes that isn't finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// Frames without a checksum.
    pub checksum: bool,
    /// Large TCP segments on IPv4.
    pub large4: bool,
    /// Large TCP segments on IPv6.
    pub large6: bool,
}

impl Takes {
    pub(super) fn of(features: u64) -> Self {
        let has = |bits| features & bits == bits;
        Self {
            checksum: has(FEATURE_GUEST_CSUM),
            large4: has(FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4),
            large6: has(FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO6),
        }
    }
}

fn u16_at(header: &[u8; HEADER_LEN], at: usize) -> u16 {
    let byte = |at: usize| header.get(at).copied().unwrap_or_default();
    u16::from_le_bytes([byte(at), byte(at + 1)])
}

/// Writes a field; what lies behind the end is left out.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}

impl Offload {
    /// Reads a driver's header before a frame of `len` bytes; `None` when it is one that the driver may not send.
    pub(super) fn read(header: &[u8; HEADER_LEN], len: usize, features: u64) -> Option<Self> {
        let [flags, kind, ..] = *header;
        let checksum = match flags & FLAG_NEEDS_CSUM {
            0 => None,
            _ => {
                let partial =
                    Partial { start: u16_at(header, HEADER_CSUM_START), field: u16_at(header, HEADER_CSUM_OFFSET) };
                let end = usize::from(partial.start) + usize::from(partial.field) + 2;
                (features & FEATURE_CSUM != 0 && end <= len).then_some(())?;
                Some(partial)
            }
        };
        let family = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 if features & FEATURE_HOST_TSO4 != 0 => Some(Family::V4),
            GSO_TCP6 if features & FEATURE_HOST_TSO6 != 0 => Some(Family::V6),
            _ => return None,
        };
        let large = match family {
            None => None,
            Some(family) => {
                let (size, headers) = (u16_at(header, HEADER_GSO_SIZE), u16_at(header, HEADER_HDR_LEN));
                (size > 0 && checksum.is_some()).then_some(())?;
                Some(Large { family, size, headers })
            }
        };
        Some(Self { checksum, large, valid: false })
    }

    /// The header before a frame that takes `buffers` buffers. What the driver doesn't take isn't said.
    pub(super) fn write(&self, takes: Takes, buffers: u16) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let mut set = |at, value: &[u8]| put(&mut header, at, value);
        if let Some(partial) = self.checksum {
            set(HEADER_FLAGS, &[FLAG_NEEDS_CSUM]);
            set(HEADER_CSUM_START, &partial.start.to_le_bytes());
            set(HEADER_CSUM_OFFSET, &partial.field.to_le_bytes());
        } else if self.valid && takes.checksum {
            set(HEADER_FLAGS, &[FLAG_DATA_VALID]);
        }
        if let Some(large) = self.large {
            set(HEADER_GSO_TYPE, &[if large.family == Family::V4 { GSO_TCP4 } else { GSO_TCP6 }]);
            set(HEADER_HDR_LEN, &large.headers.to_le_bytes());
            set(HEADER_GSO_SIZE, &large.size.to_le_bytes());
        }
        set(HEADER_NUM_BUFFERS, &buffers.to_le_bytes());
        header
    }

    /// Whether a driver that takes `takes` can be given such a frame.
    pub(super) fn suits(&self, takes: Takes) -> bool {
        let large = match self.large.map(|large| large.family) {
            None => true,
            Some(Family::V4) => takes.large4,
            Some(Family::V6) => takes.large6,
        };
        large && (self.checksum.is_none() || takes.checksum)
    }
}

impl Partial {
    /// Fills the checksum in. Nothing happens when the field is not in the frame.
    pub fn fill(self, frame: &mut [u8]) {
        let start = usize::from(self.start);
        let field = start + usize::from(self.field);
        let sum = match !fold(sum(frame.get(start..).unwrap_or_default())) {
            // Zero would say that UDP has no checksum; the other zero is as right (RFC 768).
            0 => u16::MAX,
            sum => sum,
        };
        if let Some(place) = frame.get_mut(field..field + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Sum of bytes as 16-bit words of network order, to be folded (RFC 1071).
pub fn sum(bytes: &[u8]) -> u64 {
    // The sum doesn't depend on the byte order in which it is made, only its end does.
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    u64::from(u16::from_be_bytes(fold(total).to_ne_bytes()))
}

/// Folds a sum into 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_standards() {
        // RFC 1071, 3: these bytes have the sum 2ddf0, folded ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(fold(sum(&bytes[..7])), fold(0x0001 + 0xf203 + 0xf4f5 + 0xf600));
        assert_eq!(fold(sum(&[])), 0);
    }

    #[test]
    fn a_filled_checksum_makes_the_whole_sum_to_all_ones() {
        let mut frame: Vec<u8> = (0..61).collect();
        Partial { start: 14, field: 16 }.fill(&mut frame);
        frame[14 + 16..14 + 18].copy_from_slice(&[0, 0]);
        Partial { start: 14, field: 16 }.fill(&mut frame);
        assert_eq!(fold(sum(&frame[14..])), 0xffff);
        Partial { start: 60, field: 0 }.fill(&mut frame);
        Partial { start: u16::MAX, field: u16::MAX }.fill(&mut frame);
        assert_eq!(fold(sum(&frame[14..])), 0xffff, "what is outside is left alone");
    }
}

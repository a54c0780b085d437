//! Finding zeros fast.

/// Whether all bytes are 0. The compiler makes wide compares of it.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Data mostly shows in its first bytes.
    let (head, tail) = bytes.split_at(bytes.len().min(16));
    if head.iter().any(|byte| *byte != 0) {
        return false;
    }
    let mut blocks = tail.chunks_exact(256);
    blocks.by_ref().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && blocks.remainder().iter().all(|byte| *byte == 0)
}

/// Splits bytes into runs of zeros and of others, in units of `unit` bytes (the last may be shorter): start, length,
/// whether it is zeros.
pub fn runs(bytes: &[u8], unit: usize) -> Vec<(usize, usize, bool)> {
    let mut all: Vec<(usize, usize, bool)> = Vec::new();
    for (number, part) in bytes.chunks(unit.max(1)).enumerate() {
        let zero = is_zero(part);
        match all.last_mut().filter(|last| last.2 == zero) {
            Some(last) => last.1 += part.len(),
            None => all.push((number * unit, part.len(), zero)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_byte_counts() {
        for len in [0, 1, 15, 16, 17, 255, 256, 300, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_cover_everything() {
        let mut bytes = vec![0; 1000];
        bytes[300] = 1;
        assert_eq!(runs(&bytes, 256), [(0, 256, true), (256, 256, false), (512, 488, true)]);
        assert!(runs(&[], 256).is_empty());
    }
}

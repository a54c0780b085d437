//! A storage that fails when it is told to.

use std::io::{self, IoSlice, IoSliceMut};

use parking_lot::Mutex;

use super::Memory;
use crate::storage::{Storage, Stretch};

/// Kinds of calls that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Storage::read_at`].
    Read,
    /// [`Storage::write_at`].
    Write,
    /// [`Storage::flush`].
    Flush,
    /// [`Storage::set_len`].
    SetLen,
    /// [`Storage::zero`].
    Zero,
    /// [`Storage::allocate`].
    Allocate,
}

/// All of them.
pub const CALLS: [Call; 6] = [Call::Read, Call::Write, Call::Flush, Call::SetLen, Call::Zero, Call::Allocate];

/// A fault to come.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// Which calls fail.
    pub call: Call,
    /// So many of them go well first, counted from when the fault was put in.
    pub after: usize,
    /// The host's error, such as ENOSPC or EIO.
    pub errno: i32,
    /// Bytes of a write that get there before it fails.
    pub torn: usize,
    /// All later calls of the kind fail, too, until the fault is taken out.
    pub lasts: bool,
}

struct State {
    trouble: Option<Trouble>,
    /// Calls of each kind.
    calls: [usize; CALLS.len()],
    failed: usize,
}

/// Bytes in memory that can't always be read and written.
pub struct Faulty {
    memory: Memory,
    state: Mutex<State>,
}

impl Faulty {
    /// With these bytes, and no fault.
    pub fn of(bytes: Vec<u8>) -> Self {
        let state = State { trouble: None, calls: [0; CALLS.len()], failed: 0 };
        Self { memory: Memory::of(bytes), state: Mutex::new(state) }
    }

    /// Puts a fault in. Calls are counted from now on.
    pub fn fail(&self, trouble: Trouble) {
        *self.state.lock() = State { trouble: Some(trouble), calls: [0; CALLS.len()], failed: 0 };
    }

    /// Takes the fault out. Says how many calls have failed.
    pub fn heal(&self) -> usize {
        let mut state = self.state.lock();
        state.trouble = None;
        state.failed
    }

    /// How many calls of a kind there have been.
    pub fn calls(&self, call: Call) -> usize {
        self.state.lock().calls[call as usize]
    }

    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.memory.bytes()
    }

    // The error of this call, if it is to fail, and how many bytes get there before.
    fn enter(&self, call: Call) -> Result<(), (io::Error, usize)> {
        let mut state = self.state.lock();
        let number = state.calls[call as usize];
        state.calls[call as usize] += 1;
        let Some(trouble) = state.trouble.filter(|trouble| trouble.call == call) else { return Ok(()) };
        if number == trouble.after || (trouble.lasts && number > trouble.after) {
            state.failed += 1;
            return Err((io::Error::from_raw_os_error(trouble.errno), trouble.torn));
        }
        Ok(())
    }

    fn whole(&self, call: Call) -> io::Result<()> {
        self.enter(call).map_err(|(error, _)| error)
    }
}

impl Storage for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
        self.whole(Call::Read)?;
        self.memory.read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let Err((error, torn)) = self.enter(Call::Write) else { return self.memory.write_at(buffers, offset) };
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).take(torn).collect();
        self.memory.write_at(&[IoSlice::new(&bytes)], offset)?;
        Err(error)
    }

    fn flush(&self) -> io::Result<()> {
        self.whole(Call::Flush)?;
        self.memory.flush()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.whole(Call::SetLen)?;
        self.memory.set_len(len)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<bool> {
        self.whole(Call::Zero)?;
        self.memory.zero(offset, len, unmap)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.whole(Call::Allocate)?;
        self.memory.allocate(offset, len)
    }

    fn stretch(&self, offset: u64) -> io::Result<Stretch> {
        self.memory.stretch(offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.memory.allocated()
    }

    fn block(&self) -> u32 {
        512
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{read, write};

    #[test]
    fn it_fails_when_told_to_and_heals() {
        let disk = Faulty::of(vec![1; 8]);
        disk.fail(Trouble { call: Call::Write, after: 1, errno: libc::ENOSPC, torn: 2, lasts: true });
        write(&disk, &[2; 4], 0).unwrap();
        let error = write(&disk, &[3; 4], 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.bytes(), [2, 2, 2, 2, 3, 3, 1, 1]);
        assert!(write(&disk, &[4], 0).is_err());
        read(&disk, &mut [0; 4], 0).unwrap();
        assert_eq!((disk.calls(Call::Write), disk.calls(Call::Read)), (3, 1));
        assert_eq!(disk.heal(), 2);
        write(&disk, &[5], 0).unwrap();
        disk.fail(Trouble { call: Call::Read, after: 0, errno: libc::EIO, torn: 0, lasts: false });
        assert!(read(&disk, &mut [0; 4], 0).is_err());
        read(&disk, &mut [0; 4], 0).unwrap();
    }
}

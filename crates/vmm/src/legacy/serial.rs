//! The 16550 serial port, by vm-superio's model, in our lifecycle.
//!
//! Output goes to any number of [`Tap`]s, each with a bounded buffer: a slow reader loses bytes and is told how many,
//! and the guest never waits. Input is a bounded queue in front of the chip's FIFO: the sender waits, the guest never
//! loses a byte.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Chip, SerialState as ChipState};

use crate::bus::BusDevice;
use crate::device::{Device, Saved, StateError};
use crate::irq::Line;

const KIND: &str = "serial";
const VERSION: u32 = 1;
/// Ports that a chip takes.
pub const LEN: u64 = 8;
/// Port and interrupt of COM1 to COM4.
pub const COM: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
/// Bytes of input that wait in front of the FIFO.
const INPUT_MAX: usize = 4096;

/// A serial port.
pub struct Serial {
    number: usize,
    line: Line,
    state: Mutex<State>,
    /// Somebody who sends may go on, or give up.
    room: Condvar,
    taps: Taps,
}

struct State {
    chip: Chip<Pulse, NoEvents, Taps>,
    input: VecDeque<u8>,
    unplugged: bool,
}

#[derive(Serialize, Deserialize)]
struct SavedSerial {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    fifo: Vec<u8>,
    input: Vec<u8>,
}

struct Pulse(Line);

impl Trigger for Pulse {
    type E = Infallible;
    // ISA interrupts are edges.
    fn trigger(&self) -> Result<(), Infallible> {
        self.0.pulse();
        Ok(())
    }
}

impl Serial {
    /// The port COM`number + 1` on its interrupt.
    pub fn new(number: usize, line: Line) -> Arc<Self> {
        let taps = Taps::default();
        let chip = Chip::new(Pulse(line.clone()), taps.clone());
        let state = Mutex::new(State { chip, input: VecDeque::new(), unplugged: false });
        Arc::new(Self { number, line, state, room: Condvar::new(), taps })
    }

    /// A reader of what the guest sends from now on; at most `capacity` bytes wait for it.
    pub fn tap(&self, capacity: usize) -> Tap {
        let buffer = Arc::new(Buffer { capacity, state: Mutex::default(), filled: Condvar::new() });
        // The state's lock comes before the taps': the chip writes to them while it is held.
        let state = self.state.lock();
        if state.unplugged {
            buffer.close();
        }
        let mut taps = self.taps.0.lock();
        taps.retain(|tap| Arc::strong_count(tap) > 1);
        taps.push(buffer.clone());
        Tap(buffer)
    }

    /// Sends bytes to the guest, as many as there is room for. Gives how many.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let accepted = bytes.len().min(INPUT_MAX.saturating_sub(state.input.len()));
        state.input.extend(bytes.iter().take(accepted));
        state.fill_fifo();
        accepted
    }

    /// Sends all bytes to the guest, waiting while there is no room.
    ///
    /// # Errors
    /// When the port goes away in between.
    pub fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            bytes = bytes.get(self.offer(bytes)..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            let mut state = self.state.lock();
            if state.unplugged {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if state.input.len() >= INPUT_MAX {
                self.room.wait(&mut state);
            }
        }
    }
}

impl State {
    fn fill_fifo(&mut self) {
        let room = self.chip.fifo_capacity().min(self.input.len());
        if room == 0 {
            return;
        }
        let next: Vec<u8> = self.input.iter().take(room).copied().collect();
        // In loop-back nothing is taken; the FIFO isn't full and the trigger can't fail.
        let taken = self.chip.enqueue_raw_bytes(&next).unwrap_or(0);
        self.input.drain(..taken);
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let [byte] = data else { return };
        let mut state = self.state.lock();
        *byte = state.chip.read(offset as u8);
        if offset == 0 {
            state.fill_fifo();
            self.room.notify_all();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let [byte] = data else { return };
        let mut state = self.state.lock();
        // Neither the trigger nor the taps can fail.
        if let Err(error) = state.chip.write(offset as u8, *byte) {
            log::warn!("serial port {}: {error:?}", self.number);
        }
        // The end of loop-back lets waiting input in.
        state.fill_fifo();
    }
}

impl Device for Serial {
    fn id(&self) -> String {
        format!("{KIND}{}", self.number)
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        state.chip = Chip::new(Pulse(self.line.clone()), self.taps.clone());
        state.fill_fifo();
    }

    fn pause(&self) {}
    fn resume(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        let state = self.state.lock();
        let chip = state.chip.state();
        let saved = SavedSerial {
            divisor: [chip.baud_divisor_low, chip.baud_divisor_high],
            interrupt_enable: chip.interrupt_enable,
            interrupt_identification: chip.interrupt_identification,
            line_control: chip.line_control,
            line_status: chip.line_status,
            modem_control: chip.modem_control,
            modem_status: chip.modem_status,
            scratch: chip.scratch,
            fifo: chip.in_buffer,
            input: state.input.iter().copied().collect(),
        };
        Saved::new(KIND, VERSION, &saved)
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let saved: SavedSerial = saved.open(KIND, VERSION)?;
        let [low, high] = saved.divisor;
        let chip = ChipState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: saved.interrupt_enable,
            interrupt_identification: saved.interrupt_identification,
            line_control: saved.line_control,
            line_status: saved.line_status,
            modem_control: saved.modem_control,
            modem_status: saved.modem_status,
            scratch: saved.scratch,
            in_buffer: saved.fifo,
        };
        let chip = Chip::from_state(&chip, Pulse(self.line.clone()), NoEvents, self.taps.clone());
        let mut state = self.state.lock();
        state.chip = chip.map_err(|error| StateError::Impossible(format!("serial port: {error:?}")))?;
        state.input = saved.input.into();
        Ok(())
    }

    fn unplug(&self) {
        self.state.lock().unplugged = true;
        self.room.notify_all();
        self.taps.0.lock().drain(..).for_each(|tap| tap.close());
    }
}

/// All readers of a port's output.
#[derive(Clone, Default)]
struct Taps(Arc<Mutex<Vec<Arc<Buffer>>>>);

impl Write for Taps {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().iter().for_each(|tap| tap.push(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Buffered {
    bytes: VecDeque<u8>,
    lost: u64,
    closed: bool,
}

struct Buffer {
    capacity: usize,
    state: Mutex<Buffered>,
    filled: Condvar,
}

impl Buffer {
    fn push(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.bytes.extend(bytes);
        let over = state.bytes.len().saturating_sub(self.capacity);
        // The newest bytes are worth more than the oldest.
        state.bytes.drain(..over);
        state.lost += over as u64;
        self.filled.notify_all();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }
}

/// A reader of a serial port's output. Dropping it ends it.
pub struct Tap(Arc<Buffer>);

/// What a [`Tap`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes, in order.
    Bytes(Vec<u8>),
    /// So many bytes were lost before the next ones.
    Lost(u64),
    /// The port is gone.
    End,
}

impl Tap {
    /// Waits for output.
    pub fn wait(&self) -> Output {
        let mut state = self.0.state.lock();
        loop {
            if state.lost > 0 {
                return Output::Lost(std::mem::take(&mut state.lost));
            }
            if !state.bytes.is_empty() {
                return Output::Bytes(std::mem::take(&mut state.bytes).into());
            }
            if state.closed {
                return Output::End;
            }
            self.0.filled.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Wires;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Edges(AtomicU32);
    impl Wires for Edges {
        fn set(&self, _gsi: u32, level: bool) {
            self.0.fetch_add(level.into(), Ordering::SeqCst);
        }
    }

    fn port() -> (Arc<Edges>, Arc<Serial>) {
        let edges = Arc::new(Edges::default());
        (edges.clone(), Serial::new(0, Line::alone(edges, 4)))
    }

    fn read(serial: &Serial, offset: u64) -> u8 {
        let mut one = [0];
        serial.read(offset, &mut one);
        one[0]
    }

    fn drain(serial: &Serial) -> Vec<u8> {
        let mut bytes = Vec::new();
        while read(serial, 5) & 1 != 0 {
            bytes.push(read(serial, 0));
        }
        bytes
    }

    #[test]
    fn every_tap_sees_all_output_from_its_beginning_on() {
        let (_, serial) = port();
        let first = serial.tap(100);
        serial.write(0, b"a");
        let second = serial.tap(100);
        serial.write(0, b"b");
        assert_eq!(first.wait(), Output::Bytes(b"ab".into()));
        assert_eq!(second.wait(), Output::Bytes(b"b".into()));
        serial.unplug();
        assert_eq!(first.wait(), Output::End);
        assert_eq!(serial.tap(1).wait(), Output::End);
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_bytes_and_hears_how_many() {
        let (_, serial) = port();
        let tap = serial.tap(4);
        b"0123456789".iter().for_each(|b| serial.write(0, &[*b]));
        assert_eq!(tap.wait(), Output::Lost(6));
        assert_eq!(tap.wait(), Output::Bytes(b"6789".into()));
    }

    #[test]
    fn input_waits_for_the_guest_and_loses_nothing() {
        let (edges, serial) = port();
        serial.write(1, &[1]);
        let text: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let sender = {
            let (serial, text) = (serial.clone(), text.clone());
            std::thread::spawn(move || serial.send(&text))
        };
        let mut received = Vec::new();
        while received.len() < text.len() {
            received.extend(drain(&serial));
            std::thread::yield_now();
        }
        sender.join().unwrap().unwrap();
        assert_eq!(received, text);
        assert!(edges.0.load(Ordering::SeqCst) > 0);
    }

    #[test]
    fn a_sender_gives_up_when_the_port_goes_away() {
        let (_, serial) = port();
        let sender = {
            let serial = serial.clone();
            std::thread::spawn(move || serial.send(&[0; 100_000]))
        };
        serial.unplug();
        assert_eq!(sender.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_port_goes_on_in_its_next_life_in_the_middle_of_input() {
        let (_, serial) = port();
        serial.write(3, &[0x80]);
        serial.write(0, &[3]);
        serial.write(3, &[0x03]);
        serial.write(7, &[0x77]);
        assert_eq!(serial.offer(&[7; 200]), 200);
        read(&serial, 0);
        let saved = serial.save().unwrap();
        let (_, new) = port();
        new.restore(&saved).unwrap();
        assert_eq!(new.save().unwrap(), saved);
        assert_eq!(read(&new, 7), 0x77);
        assert_eq!(drain(&new), [7; 199]);
    }

    #[test]
    fn wide_accesses_change_nothing() {
        let (_, serial) = port();
        let before = serial.save().unwrap();
        serial.write(0, &[1, 2]);
        serial.write(1, &[]);
        let mut two = [0xff; 2];
        serial.read(0, &mut two);
        assert_eq!(two, [0xff; 2]);
        assert_eq!(serial.save().unwrap(), before);
    }
}

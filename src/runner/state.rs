//! What the control socket acts on: the machine, whether its guest runs, its screen, keys and disks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use kiln_image::{BlockDevice, Image};
use kiln_rfb::{FrameSource, Rect};
use kiln_vmm::legacy::i8042::{Key, LEFT, MIDDLE, RIGHT};
use kiln_vmm::machine::{self, Machine, Outcome};
use kiln_vmm::pci::Place;
use kiln_vmm::virtio::blk::{Consequence, DetectZeroes, DiskError};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::blueprint::{CacheMode, Disk};
use super::cards::Cards;
use super::process::Wake;
use super::qmp::{Hub, Picture, PowerOff, Subject};
use super::screen::Screen;
use super::start::Record;
use super::visitors::Visitors;

/// Whether the guest runs, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Running,
    Paused,
    IoError,
    /// It was reset while it was paused, and boots when it goes on.
    Fresh,
}

/// A disk of a running machine.
pub(super) struct RunningDisk {
    pub(super) disk: Disk,
    pub(super) image: Arc<Image>,
    pub(super) place: Place,
}

/// A machine that runs.
pub(super) struct State {
    name: String,
    machine: Arc<Machine>,
    screen: Option<Arc<Screen>>,
    visitors: Arc<Visitors>,
    disks: Vec<RunningDisk>,
    cards: Cards,
    /// Disks whose errors have stopped the machine, and whether it was for want of space.
    failed: Mutex<BTreeMap<String, bool>>,
    record: Record,
    hub: Arc<Hub>,
    wake: Sender<Wake>,
    status: Mutex<Status>,
    /// The guest's next power-off is half a reboot.
    reboots: AtomicBool,
    /// Buttons of the pointer that are held by commands.
    held: Mutex<u8>,
}

impl State {
    pub(super) fn new(
        (name, record): (&str, &Record),
        machine: Arc<Machine>,
        (screen, visitors): (Option<Arc<Screen>>, Arc<Visitors>),
        (disks, cards): (Vec<RunningDisk>, Cards),
        (hub, wake): (Arc<Hub>, Sender<Wake>),
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            machine,
            screen,
            visitors,
            disks,
            cards,
            failed: Mutex::default(),
            record: record.clone(),
            hub,
            wake,
            status: Mutex::new(Status::Running),
            reboots: AtomicBool::new(false),
            held: Mutex::new(0),
        })
    }

    /// Gives back what its network cards have of the host.
    pub(super) fn end_cards(&self) {
        self.cards.end();
    }

    /// Its disks.
    pub(super) fn all_disks(&self) -> &[RunningDisk] {
        &self.disks
    }

    /// Clients of the control socket.
    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Whether a guest that has powered off was told to reboot.
    pub(super) fn starts_again(&self) -> bool {
        self.reboots.load(Ordering::Acquire)
    }

    /// Does what resets the machine or leaves it standing. A paused machine stays paused, and forgets what its disks
    /// were asked for.
    ///
    /// # Errors
    /// When the machine can't be reset.
    pub(super) fn turn(
        &self,
        act: impl FnOnce(&Machine) -> Result<Outcome, machine::Error>,
    ) -> Result<Outcome, machine::Error> {
        // Held throughout, as in resume.
        let mut status = self.status.lock();
        let outcome = act(&self.machine)?;
        match outcome {
            Outcome::Runs => {
                self.reboots.store(false, Ordering::Release);
                self.failed.lock().clear();
                if *status != Status::Running {
                    *status = Status::Fresh;
                }
            }
            Outcome::Stands => self.stand(&mut status, Status::Paused),
            Outcome::Ended => {}
        }
        Ok(outcome)
    }

    /// A request to a disk failed. Pauses the machine if that is what is to become of it.
    pub(super) fn disk_failed(&self, error: &DiskError) {
        let DiskError { drive, operation, no_space, why, consequence } = error;
        let action = match consequence {
            Consequence::Reported => "report",
            Consequence::Ignored => "ignore",
            Consequence::Stopped => "stop",
        };
        log::warn!("{drive}: a {operation} failed ({action}): {why}");
        let operation = if *operation == kiln_image::Operation::Read { "read" } else { "write" };
        let data = json!({
            "device": drive, "node-name": drive, "operation": operation, "action": action, "nospace": no_space,
            "reason": why,
        });
        self.hub.tell("BLOCK_IO_ERROR", Some(data));
        if *consequence == Consequence::Stopped {
            let mut status = self.status.lock();
            // A reset has taken the request back meanwhile.
            if *status == Status::Fresh {
                return;
            }
            self.failed.lock().insert(drive.clone(), *no_space);
            self.stand(&mut status, Status::IoError);
            log::error!("the machine is paused; resume does the request again");
        }
    }

    fn stand(&self, status: &mut Status, why: Status) {
        if *status == Status::Running {
            self.machine.pause();
            self.hub.tell("STOP", None);
        }
        // What the disk still waits for outweighs that the user has stopped it, too; and what is as new stays so.
        if matches!(status, Status::Running | Status::Paused) {
            *status = why;
        }
    }

    fn pixels(&self) -> Result<(Rect, Vec<u32>), String> {
        let screen = self.screen.as_ref().ok_or("the machine has no display")?;
        // A guest that changes its mode right now gets a second look.
        for _ in 0..2 {
            let size = screen.size();
            let mut pixels = vec![0; size.area()];
            if screen.copy(size.rect(), &mut pixels) {
                return Ok((size.rect(), pixels));
            }
        }
        Err("the guest changes its screen's size right now; try again".into())
    }

    fn query_block(&self, running: &RunningDisk) -> Value {
        let RunningDisk { disk, image, .. } = running;
        let path = disk.path.to_string_lossy();
        let status = match self.failed.lock().get(&disk.target) {
            None => "ok",
            Some(true) => "nospace",
            Some(false) => "failed",
        };
        let detect_zeroes = match disk.detect_zeroes {
            DetectZeroes::Off => "off",
            DetectZeroes::On => "on",
            DetectZeroes::Unmap => "unmap",
        };
        let mut inserted = json!({
            "node-name": disk.target, "file": path, "drv": disk.format.name(), "ro": disk.read_only,
            "backing_file_depth": image.chain().count() - 1, "encrypted": false, "detect_zeroes": detect_zeroes,
            "write_threshold": 0, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
            "cache": {
                "writeback": disk.cache.has_write_cache(), "direct": disk.cache.is_direct(),
                "no-flush": disk.cache == CacheMode::Unsafe,
            },
            "image": { "filename": path, "format": disk.format.name(), "virtual-size": image.len() },
        });
        if let (Some(below), Some(map)) = (image.backing(), inserted.as_object_mut()) {
            map.insert("backing_file".into(), below.path().to_string_lossy().into());
        }
        json!({
            "device": disk.target, "type": "unknown", "removable": false, "locked": false, "io-status": status,
            "qdev": format!("/machine/peripheral/virtio-{}", disk.target), "inserted": inserted,
        })
    }
}

impl Subject for State {
    fn name(&self) -> &str {
        &self.name
    }

    fn status(&self) -> &'static str {
        match *self.status.lock() {
            Status::Running => "running",
            Status::Paused => "paused",
            Status::IoError => "io-error",
            Status::Fresh => "prelaunch",
        }
    }

    fn pause(&self) {
        self.stand(&mut self.status.lock(), Status::Paused);
    }

    fn resume(&self) {
        // Held throughout: of a pause and a resume that come at once, one is done when the other begins.
        let mut status = self.status.lock();
        if *status != Status::Running {
            *status = Status::Running;
            self.failed.lock().clear();
            self.hub.tell("RESUME", None);
            self.machine.resume();
        }
    }

    fn press_power_button(&self, then: PowerOff) {
        self.reboots.store(then == PowerOff::StartsAgain, Ordering::Release);
        self.machine.press_power_button();
        self.hub.tell("POWERDOWN", None);
    }

    fn reset(&self) {
        // The main thread is gone only when the process is about to be.
        let _ = self.wake.send(Wake::Reset);
    }

    fn quit(&self) {
        let _ = self.wake.send(Wake::Quit("host-qmp-quit"));
    }

    fn screenshot(&self, to: OwnedFd, picture: Picture) -> Result<(), String> {
        let (area, pixels) = self.pixels()?;
        let written = match picture {
            Picture::Png => png(area, &pixels, File::from(to)).map_err(io::Error::other),
            Picture::Ppm => ppm(area, &pixels, File::from(to)),
        };
        written.map_err(|e| format!("the picture can't be written: {e}"))
    }

    fn key(&self, scancode: u8, down: bool) {
        if let Some(ps2) = self.machine.ps2() {
            // A guest that has its keyboard off doesn't hear it: as with a real one.
            let _ = ps2.key(Key::from(scancode), down);
        }
    }

    fn pointer_moved(&self, x: i32, y: i32) {
        if let Some(ps2) = self.machine.ps2() {
            let _ = ps2.mouse([x, y, 0], *self.held.lock());
        }
    }

    fn button(&self, number: u8, down: bool) {
        let Some(ps2) = self.machine.ps2() else { return };
        let mut held = self.held.lock();
        match number {
            0..=2 => {
                let bit = [LEFT, MIDDLE, RIGHT].get(usize::from(number)).copied().unwrap_or_default();
                *held = if down { *held | bit } else { *held & !bit };
                let _ = ps2.mouse([0; 3], *held);
            }
            // A wheel's notch is one press.
            3 | 4 if down => drop(ps2.mouse([0, 0, if number == 3 { -1 } else { 1 }], *held)),
            _ => {}
        }
    }

    fn disks(&self) -> Value {
        self.disks.iter().map(|disk| self.query_block(disk)).collect()
    }

    fn disk(&self, name: &str) -> Option<&RunningDisk> {
        self.disks.iter().find(|running| running.disk.target == name)
    }

    fn resize(&self, running: &RunningDisk, bytes: u64) -> Result<(), String> {
        if running.disk.read_only {
            return Err(format!("the disk {} is read-only", running.disk.target));
        }
        running.image.resize(bytes).map_err(|error| super::process::chain(&error))?;
        self.machine.announce(running.place);
        Ok(())
    }

    fn cards(&self) -> Value {
        self.cards.told(&self.machine)
    }

    fn set_link(&self, card: &str, up: bool) -> Result<(), String> {
        self.cards.set_link(&self.machine, card, up)
    }

    fn vnc(&self) -> Value {
        let Some((host, port)) = &self.record.vnc else { return json!({ "enabled": false }) };
        let family = if host.contains(':') { "ipv6" } else { "ipv4" };
        json!({
            "enabled": true, "host": host, "service": port.to_string(), "family": family,
            "auth": self.visitors.auth, "clients": self.visitors.list(),
        })
    }

    fn character_devices(&self) -> Value {
        let socket = |path: &PathBuf| format!("unix:{},server=on", path.display());
        let mut all = vec![json!({
            "label": "charmonitor", "filename": socket(&self.record.control), "frontend-open": true,
        })];
        if let Some(console) = &self.record.console {
            all.push(json!({ "label": "serial0", "filename": socket(console), "frontend-open": true }));
        }
        all.into()
    }
}

fn rgb(pixels: &[u32]) -> Vec<u8> {
    pixels.iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]).collect()
}

fn ppm(area: Rect, pixels: &[u32], mut to: File) -> io::Result<()> {
    to.write_all(format!("P6\n{} {}\n255\n", area.w, area.h).as_bytes())?;
    to.write_all(&rgb(pixels))
}

fn png(area: Rect, pixels: &[u32], to: File) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(io::BufWriter::new(to), area.w, area.h);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Screens are flat: the fast way is nearly as small, and the guest's host has better to do.
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&rgb(pixels))?;
    writer.finish()
}

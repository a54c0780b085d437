//! Debian's real installer on kiln's monitor: its language menu, read off the pixels that came over VNC, and beside it
//! the same installer under QEMU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln::machine::running::Running;
use kiln::machine::{Folders, folders::Surroundings};
use kiln_lab::installer::{INSIDE, Netboot};
use kiln_lab::screen::{Font, Grid};
use kiln_rfb::viewer::Viewer;

const KILN: &str = env!("CARGO_BIN_EXE_kiln");
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// What QEMU loads for itself.
const QEMU_FILES: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];
const PATIENCE: Duration = Duration::from_secs(600);

/// Lines of the menu, as the installer's own templates have them.
const LINES: [&str; 5] = [
    "[!!] Select a language",
    "Choose the language to be used for the installation process.",
    "English                -  English",
    "German                 -  Deutsch",
    "<Go Back>",
];

fn stands(grid: &Grid) -> bool {
    let text = grid.text();
    LINES.iter().all(|line| text.contains(line))
}

fn viewer(port: u16) -> Viewer<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Viewer::connect(stream, None).unwrap()
}

fn wait_over_vnc(viewer: &mut Viewer<TcpStream>, font: &Font) {
    let end = Instant::now() + PATIENCE;
    viewer.request(false).unwrap();
    loop {
        viewer.update().unwrap();
        let grid = Grid::read(viewer.pixels(), viewer.size().w as usize, font);
        if stands(&grid) {
            return;
        }
        assert!(Instant::now() < end, "the menu doesn't come; the screen:\n{}", grid.text());
        viewer.request(true).unwrap();
    }
}

/// Kiln's machine, removed at the end.
struct Machine<'a>(&'a Path);

impl Machine<'_> {
    fn kiln(&self, words: &[&str]) -> String {
        let output = Command::new(KILN).args(words).env("KILN_HOME", self.0).output().unwrap();
        assert!(output.status.success(), "kiln {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = Command::new(KILN).args(["destroy", "debian"]).env("KILN_HOME", self.0).output();
    }
}

struct Qemu(Child, UnixStream);

impl Qemu {
    fn start(netboot: &Netboot, folder: &Path) -> Self {
        let socket = folder.join("qmp");
        let child = Command::new(QEMU)
            .args(["-nodefaults", "-no-user-config", "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "1024"])
            .args(["-vga", "std", "-display", "none", "-nic", "none", "-append", "vga=791"])
            .arg("-kernel")
            .arg(&netboot.kernel)
            .arg("-initrd")
            .arg(&netboot.initrd)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(e) => assert!(Instant::now() < end, "QEMU doesn't come up: {e}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut qemu = Self(child, stream);
        qemu.tell(r#"{"execute":"qmp_capabilities"}"#);
        qemu
    }

    fn tell(&mut self, command: &str) {
        self.1.write_all(command.as_bytes()).unwrap();
        let mut lines = BufReader::new(self.1.try_clone().unwrap()).lines();
        let answered =
            lines.by_ref().map(Result::unwrap).find(|line| line.contains("\"return\"") || line.contains("\"error\""));
        assert!(answered.as_ref().is_some_and(|line| line.contains("\"return\"")), "{command}: {answered:?}");
    }

    /// What its screen shows: QEMU dumps it as a portable pixmap.
    fn grid(&mut self, folder: &Path, font: &Font) -> Grid {
        let file = folder.join("qemu.ppm");
        self.tell(&format!(r#"{{"execute":"screendump","arguments":{{"filename":"{}"}}}}"#, file.display()));
        let bytes = fs::read(&file).unwrap();
        let mut fields = bytes.splitn(4, |b| b.is_ascii_whitespace());
        assert_eq!(fields.next().unwrap(), b"P6");
        let mut number = || std::str::from_utf8(fields.next().unwrap()).unwrap().parse::<usize>().unwrap();
        let (width, height) = (number(), number());
        let body = &bytes[bytes.len() - width * height * 3..];
        let pixels: Vec<u32> =
            body.chunks_exact(3).map(|c| u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2])).collect();
        Grid::read(&pixels, width, font)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pixels of a PNG picture of 8-bit RGB.
fn picture(path: &Path) -> Vec<u32> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    let bytes = &bytes[..frame.buffer_size()];
    bytes.chunks_exact(3).map(|c| u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2])).collect()
}

#[test]
fn the_installers_menu_is_read_off_the_screen_and_is_qemus() {
    let netboot = Netboot::get().unwrap();
    let brought = |file: &Path| {
        let inside = Path::new(INSIDE).join("debian-installer/amd64").join(file.file_name().unwrap());
        format!("{}:{}", file.display(), inside.display())
    };
    let (kernel, initrd) = (brought(&netboot.kernel), brought(&netboot.initrd));
    let [bios, vga, boot, vapic] = QEMU_FILES;
    kiln_lab::needs_kvm!(900, KILN, QEMU, bios, vga, boot, vapic, &kernel, &initrd);

    let begun = Instant::now();
    let font = netboot.font().unwrap();
    let home = tempfile::tempdir().unwrap();
    let machine = Machine(home.path());
    let tree = netboot.tree.to_str().unwrap();
    machine.kiln(&[
        "install",
        "--name",
        "debian",
        "--memory",
        "1024",
        "--disk",
        "none",
        "--network",
        "none",
        "--graphics",
        "vnc",
        "--location",
        tree,
        "--noautoconsole",
    ]);
    // Both boot at once.
    let mut qemu = Qemu::start(&netboot, home.path());

    let around = Surroundings { kiln_home: Some(home.path().into()), ..Surroundings::default() };
    let running = Running::get(&Folders::of(&around).unwrap(), "debian").unwrap();
    let mut viewer = viewer(running.record.vnc.as_ref().unwrap().1);
    wait_over_vnc(&mut viewer, &font);

    eprintln!("{:?}: the menu stands under kiln", begun.elapsed());

    // The guest stands; what VNC shows is what its framebuffer holds, pixel for pixel.
    running.command("stop", None).unwrap();
    assert_eq!(running.status().unwrap().as_deref(), Some("paused"));
    viewer.request(false).unwrap();
    viewer.update().unwrap();
    let shot = home.path().join("shot.png");
    machine.kiln(&["screenshot", "debian", shot.to_str().unwrap()]);
    assert_eq!((viewer.size().w, viewer.size().h), (1280, 800));
    assert!(picture(&shot) == viewer.pixels(), "VNC's pixels and the framebuffer's differ");

    let ours = Grid::read(viewer.pixels(), 1280, &font);
    let (all, read) = ours.score();
    assert!(all > 500 && read * 100 >= all * 95, "{read} of {all} cells read:\n{}", ours.text());
    running.command("cont", None).unwrap();
    eprintln!("{:?}: {read} of {all} cells read", begun.elapsed());

    let end = Instant::now() + PATIENCE;
    let mut theirs = qemu.grid(home.path(), &font);
    while theirs != ours {
        assert!(Instant::now() < end, "QEMU's screen stays another:\n{}\nours:\n{}", theirs.text(), ours.text());
        std::thread::sleep(Duration::from_millis(500));
        theirs = qemu.grid(home.path(), &font);
    }
}

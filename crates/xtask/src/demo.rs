//! `cargo xtask demo`: sets up what is needed and lets kiln boot Debian's installer to its first screen.

use std::fs;
use std::io::BufWriter;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use kiln_lab::installer::Netboot;
use kiln_lab::machine::Lab;
use kiln_lab::options::Options;
use kiln_lab::packages;
use kiln_lab::protocol::Run;
use kiln_lab::screen::{Font, Grid};
use kiln_rfb::viewer::Viewer;

use crate::cargo::cargo;
use crate::setup;

/// Install what the demo needs (by apt, as root or with sudo), then boot Debian's installer on kiln
///
/// Its language menu ends up as a picture in target/demo/installer.png, taken over VNC. Where this machine's KVM can't
/// run guests, all of it happens in the lab, an emulated PC.
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave the machine running (only where this machine's KVM runs it)
    #[arg(long)]
    keep: bool,
}

const FOLDER: &str = "target/demo";
const NAME: &str = "demo";
/// How long the menu may take. Some seconds with KVM, a minute or two in the lab.
const PATIENCE: Duration = Duration::from_secs(600);
/// Words that stand on the installer's first screen.
const MENU: [&str; 3] = ["Select a language", "Choose the language to be used", "English"];

/// Where the machine runs.
enum Host {
    Here(Server),
    Lab(InLab),
}

/// A lab in which `kiln install` runs; the channel closes when that has ended.
struct InLab {
    _lab: Arc<Lab>,
    ended: Receiver<()>,
}

impl Host {
    /// Whether there is still something to wait for.
    fn goes_on(&self) -> bool {
        match self {
            Host::Here(_) => true,
            Host::Lab(lab) => lab.ended.try_recv() != Err(TryRecvError::Disconnected),
        }
    }
}

/// The web server of the install tree; ends with the demo.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        eprintln!("This demo boots Debian's installer on kiln's own monitor and takes a picture of it over VNC.");
        eprintln!(
            "It installs qemu-system-x86 by apt (for the lab) and downloads about 250 MB of Debian packages, once."
        );
        eprintln!("Time: some minutes the first time, a minute or two after that. All files go to {FOLDER}.");
        setup::ensure(&["qemu-system-x86"])?;
        let kiln = build()?;
        let netboot = Netboot::get()?;
        let font = netboot.font()?;
        fs::create_dir_all(FOLDER)?;
        let home = fs::canonicalize(FOLDER)?;
        let (host, port) = if works(&kiln)? { here(&kiln, &netboot, &home)? } else { lab(&kiln, &netboot)? };
        let picture = home.join("installer.png");
        let text = watch(&host, port, &font, &picture)?;
        println!("\nOn the screen:\n{}", indented(&text));
        println!("Picture: {} (open it with any viewer)", picture.display());
        self.clean_up(host, &kiln, &home)?;
        Ok(ExitCode::SUCCESS)
    }

    fn clean_up(&self, host: Host, kiln: &Path, home: &Path) -> Result<()> {
        match host {
            Host::Here(_server) if self.keep => {
                println!("The machine goes on: KILN_HOME={} kiln view {NAME}", home.display());
            }
            Host::Here(_server) => {
                for verb in ["destroy", "undefine"] {
                    Command::new(kiln).args([verb, NAME]).env("KILN_HOME", home).status()?;
                }
            }
            Host::Lab(_) if self.keep => println!("The machine went with the lab: --keep needs KVM on this machine."),
            Host::Lab(_) => {}
        }
        Ok(())
    }
}

fn build() -> Result<PathBuf> {
    let status = cargo().args(["build", "--quiet", "--package", "kiln"]).status();
    if !status.context("running cargo")?.success() {
        bail!("building kiln failed");
    }
    let beside = std::env::current_exe()?.with_file_name("kiln");
    if !beside.exists() {
        bail!("{} is missing after the build", beside.display());
    }
    Ok(beside)
}

fn works(kiln: &Path) -> Result<bool> {
    println!("$ kiln doctor");
    let status = Command::new(kiln).arg("doctor").status().context("running kiln doctor")?;
    println!();
    Ok(status.success())
}

fn install_words(url: &str, more: &[&str]) -> Vec<String> {
    let words = ["install", "--name", NAME, "--memory", "1024", "--vcpus", "1", "--disk", "none", "--network", "none"];
    let mut words: Vec<String> = words.map(str::to_owned).to_vec();
    words.extend(["--location".into(), url.into()]);
    words.extend(more.iter().map(|w| (*w).to_owned()));
    words
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn here(kiln: &Path, netboot: &Netboot, home: &Path) -> Result<(Host, u16)> {
    let port = free_port()?;
    let server = Command::new(packages::busybox()?)
        .args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"])
        .arg(&netboot.tree)
        .stdin(Stdio::null())
        .spawn()
        .map(Server)
        .context("starting a web server for the install tree")?;
    // A demo that was cut off may have left its machine.
    for verb in ["destroy", "undefine"] {
        let _ = Command::new(kiln).args([verb, NAME]).env("KILN_HOME", home).stderr(Stdio::null()).status();
    }
    let words = install_words(&format!("http://127.0.0.1:{port}/"), &["--graphics", "vnc", "--noautoconsole"]);
    println!("$ kiln {}", words.join(" "));
    wait_for_port(port)?;
    let status = Command::new(kiln).args(&words).env("KILN_HOME", home).status()?;
    if !status.success() {
        bail!("kiln install failed");
    }
    let output = Command::new(kiln).args(["vncdisplay", NAME]).env("KILN_HOME", home).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let display: u16 = text.trim().rsplit(':').next().and_then(|n| n.parse().ok()).context("kiln vncdisplay")?;
    Ok((Host::Here(server), if display < 5900 { 5900 + display } else { display }))
}

fn wait_for_port(port: u16) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > end {
            bail!("the web server of the install tree doesn't come up");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn lab(kiln: &Path, netboot: &Netboot) -> Result<(Host, u16)> {
    println!("This machine's KVM runs no guests: the rest happens in the lab.");
    let port = free_port()?;
    let options = Options {
        memory_mib: 3072,
        files: vec![(kiln.into(), "/bin/kiln".into()), (netboot.tree.clone(), "/tree".into())],
        forwards: vec![(port, 5900)],
        ..Options::default()
    };
    let lab = Lab::start(&options)?;
    println!("lab: {}, up after {:.1} s\n", options.describe(), lab.boot.as_secs_f64());
    // The lab's network leads to its own address, so the screen must be open to it.
    let graphics = ["--graphics", "vnc,port=5900,listen=0.0.0.0", "--noautoconsole"];
    let words = install_words("http://127.0.0.1:8080/", &graphics);
    println!("$ kiln {}", words.join(" "));
    let line = format!(
        "export KILN_HOME=/{FOLDER}; busybox httpd -p 127.0.0.1:8080 -h /tree && kiln {} && sleep 3600",
        words.join(" ")
    );
    let lab = Arc::new(lab);
    let running = lab.clone();
    let (end, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let run = Run { argv: vec!["sh".into(), "-c".into(), line], ..Run::default() };
        let outcome = running.run(run, |_, bytes| eprint!("{}", String::from_utf8_lossy(bytes)));
        if let Err(error) = outcome {
            eprintln!("{error:#}");
        }
        drop(end);
    });
    Ok((Host::Lab(InLab { _lab: lab, ended }), port))
}

/// Follows the screen until the menu stands, and saves it.
fn watch(host: &Host, port: u16, font: &Font, picture: &Path) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match follow(port, font, picture, end) {
            Ok(text) => return Ok(text),
            // The port may lead nowhere yet.
            Err(error) if Instant::now() > end || !host.goes_on() => {
                return Err(error.context("the installer's menu does not come"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

fn follow(port: u16, font: &Font, picture: &Path, end: Instant) -> Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    // A still screen sends nothing; the next thing comes within the patience of one look or not at all.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut viewer = Viewer::connect(stream, None)?;
    viewer.request(false)?;
    let mut stands = false;
    while Instant::now() < end {
        let updated = viewer.update();
        // Where nothing more comes, what stands is all that there will be.
        let is_still = stands && updated.is_err();
        if !is_still {
            updated?;
        }
        let grid = Grid::read(viewer.pixels(), viewer.size().w as usize, font);
        let text = grid.text();
        stands = MENU.iter().all(|words| text.contains(words));
        let (all, read) = grid.score();
        // While it is drawn (twice, one over the other) some cells are half there.
        if stands && (read == all || is_still) {
            println!("The menu stands: {read} of {all} characters read right out of the picture.");
            save(&viewer, picture)?;
            return Ok(text);
        }
        viewer.request(true)?;
    }
    bail!("not within {} s", PATIENCE.as_secs())
}

fn save<S: std::io::Read + std::io::Write>(viewer: &Viewer<S>, path: &Path) -> Result<()> {
    let file = BufWriter::new(fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, viewer.size().w, viewer.size().h);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let bytes: Vec<u8> = viewer.pixels().iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]).collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&bytes)?;
    writer.finish()?;
    Ok(())
}

fn indented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("  | {}\n", line.trim_end())).collect()
}

//! `kiln install`: words become wishes; what follows from them is [`crate::plan`]'s and [`crate::install`]'s.

mod disk;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::suboptions::Suboptions;
use super::{network, print, size, suggest};
use crate::failure::{Failure, Status};
use crate::install::{self, Afterwards, Watch, Wishes};
use crate::plan::{self, template};
use crate::runner::blueprint::{Vnc, is_port};
use crate::runner::keymap::{LAYOUTS, Layout};

const EXAMPLES: &str = "\
Examples:
  kiln install --name web --memory 2G --disk size=20 --location URL-OF-A-DEBIAN-TREE
  kiln install --name debian --memory 2G --disk size=20 --location debian-12-netinst.iso --graphics vnc
  kiln install --name own --memory 512 --disk none --network none --graphics none --import \\
      --boot kernel=vmlinuz,initrd=initrd.img,kernel_args=console=ttyS0";

/// Create a machine and boot its installer or its kernel
///
/// The options are virt-install's. What kiln can't do yet is refused by name.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Install {
    /// Name of the machine
    #[arg(short, long, value_name = "NAME")]
    name: String,
    /// Memory, in MiB or with a suffix (2G)
    #[arg(short = 'r', long, visible_alias = "ram", value_name = "SIZE")]
    memory: Option<String>,
    /// Number of virtual CPUs: N[,sockets=][,dies=][,cores=][,threads=]
    #[arg(long, value_name = "N[,…]")]
    vcpus: Option<String>,
    /// A disk, once per disk: size=GIB (a new one in the store), path=FILE (used as it is), path=FILE,size=GIB (made if it
    /// isn't there), with format=, sparse=, backing_store=, cache=, perms=, serial= and more (docs/install.md); or none
    #[arg(long, value_name = "OPTIONS")]
    disk: Vec<String>,
    /// Without any disk
    #[arg(long)]
    nodisks: bool,
    /// An installer: the ISO image of its medium, or the folder or http(s) URL of an install tree; with kernel= and initrd=
    /// by their paths in it
    #[arg(short, long, value_name = "ISO|FOLDER|URL[,kernel=,initrd=]")]
    location: Option<String>,
    /// More words for the installer's kernel
    #[arg(short = 'x', long, value_name = "WORDS", allow_hyphen_values = true)]
    extra_args: Vec<String>,
    /// A file for the root of the installer's initrd, once per file (an answer file, for example)
    #[arg(long, value_name = "FILE")]
    initrd_inject: Vec<PathBuf>,
    /// No installer: boot what is there
    #[arg(long)]
    import: bool,
    /// What to boot: kernel=FILE[,initrd=FILE][,kernel_args=WORDS]
    #[arg(long, value_name = "OPTIONS")]
    boot: Option<String>,
    /// Screen: vnc[,port=][,listen=][,password=][,passwordFile=][,websocket=][,keymap=], or none
    #[arg(long, value_name = "OPTIONS")]
    graphics: Vec<String>,
    /// A network card, once per card: user, default, network=default or passt, with mac=, mtu.size=, link.state=,
    /// portForward=[ADDRESS:]PORT[-END][:GUESTPORT][/tcp|udp], …; or none
    #[arg(short = 'w', long, value_name = "OPTIONS")]
    network: Vec<String>,
    /// What to show while waiting: text (the serial port on standard output) or none
    #[arg(long, value_name = "text|none")]
    autoconsole: Option<String>,
    /// Don't wait for the installer's end, and show nothing
    #[arg(long)]
    noautoconsole: bool,
    /// Wait at most so many minutes (0.5 is 30 s); without a number, or with -1, for ever
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "-1", allow_hyphen_values = true)]
    wait: Option<f64>,
    /// Don't start the machine again after the installation (nothing starts it so far)
    #[arg(long)]
    noreboot: bool,
    /// The system, by libosinfo's name
    #[arg(long, visible_alias = "os-variant", value_name = "NAME")]
    osinfo: Option<String>,
    /// Print the domain XML and do nothing: the first boot's (1), the permanent one (2), or all
    #[arg(long, value_name = "1|2|all", num_args = 0..=1, default_missing_value = "all")]
    print_xml: Option<String>,
    /// Check everything and do nothing
    #[arg(long)]
    dry_run: bool,
    /// XML template: default, small (for direct boots: no display, keyboard, clock), one of your own, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    template: String,
    /// A variable of your template; once per variable
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Install {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let print_xml = self.print_xml.clone();
        let dry_run = self.dry_run;
        let wishes = self.wishes()?;
        if let Some(which) = print_xml {
            print(&install::xml(&wishes, &which)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if dry_run {
            install::check(&wishes)?;
            eprintln!("Dry run completed successfully");
            return Ok(ExitCode::SUCCESS);
        }
        install::run(&wishes)
    }

    fn wishes(self) -> Result<Wishes, Failure> {
        let (vcpus, topology) = vcpus(self.vcpus.as_deref())?;
        let vnc = graphics(&self.graphics, self.template == "small")?;
        let watch = watch(self.autoconsole.as_deref(), self.noautoconsole, vnc.is_none())?;
        let wait = wait(self.wait, self.noautoconsole)?;
        Ok(Wishes {
            name: self.name,
            template: template::Source::of(&self.template),
            sets: template::Sets::of_words(&self.set)?,
            memory_mib: memory(self.memory.as_deref())?,
            vcpus,
            topology,
            disks: disk::wishes(&self.disk, self.nodisks)?,
            source: source::source(source::Words {
                location: self.location,
                extra: self.extra_args,
                inject: self.initrd_inject,
                import: self.import,
                boot: self.boot,
            })?,
            networks: network::networks(&self.network)?,
            vnc,
            os: self.osinfo.filter(|os| os != "none"),
            afterwards: Afterwards { watch, wait, start_again: !self.noreboot },
        })
    }
}

fn memory(text: Option<&str>) -> Result<u64, Failure> {
    let text = text.ok_or_else(|| {
        Failure::new(Status::Usage, "--memory is missing").advise("Give the machine memory, e.g. --memory 2048 or 2G")
    })?;
    let mut options = Suboptions::parse("--memory", Some("memory"), text);
    let wanted = options.take("memory").unwrap_or_default();
    options.finish(&["memory"], &["currentMemory", "maxMemory", "maxmemory", "hugepages"])?;
    let bytes = size::parse(&wanted, 1 << 20).ok_or_else(|| {
        Failure::new(Status::Usage, format!("--memory {wanted}: a size is expected, e.g. 2048 or 2G"))
    })?;
    plan::check_memory(bytes >> 20)
}

fn vcpus(text: Option<&str>) -> Result<(u32, Option<[u32; 4]>), Failure> {
    let Some(text) = text else { return Ok((1, None)) };
    let mut options = Suboptions::parse("--vcpus", Some("vcpus"), text);
    let count: Option<u32> = options.take_number("vcpus")?;
    let keys = ["sockets", "dies", "cores", "threads"];
    let mut parts = [None; 4];
    for (part, key) in parts.iter_mut().zip(keys) {
        *part = options.take_number::<u32>(key)?;
    }
    options.finish(&["vcpus", "sockets", "dies", "cores", "threads"], &["maxvcpus", "cpuset"])?;
    if parts.iter().all(Option::is_none) {
        return Ok((plan::check_vcpus(count.unwrap_or(1))?, None));
    }
    let given: u32 = parts.iter().flatten().try_fold(1u32, |p, n| p.checked_mul(*n)).unwrap_or(u32::MAX);
    let count = plan::check_vcpus(count.unwrap_or(given))?;
    // As virt-install: what is missing goes to cores first.
    if parts[2].is_none() && given > 0 && count.is_multiple_of(given) {
        parts[2] = Some(count / given);
    }
    let topology = parts.map(|part| part.unwrap_or(1));
    let product = topology.iter().try_fold(1u32, |p, n| p.checked_mul(*n));
    if product != Some(count) {
        return Err(Failure::new(Status::Usage, format!("--vcpus {text}: the topology doesn't give {count} CPUs")));
    }
    Ok((count, Some(topology)))
}

fn not_yet(what: &str, why: &str) -> Failure {
    Failure::new(Status::Usage, format!("not yet: {what}")).why(why)
}

fn graphics(texts: &[String], small: bool) -> Result<Option<Vnc>, Failure> {
    match texts {
        [] if small => Ok(None),
        [] => Ok(Some(Vnc::default())),
        [one] if one == "none" => Ok(None),
        [_] if small => {
            Err(Failure::new(Status::Usage, "--graphics with --template small: that machine has no display")
                .advise("Leave --graphics out, or use --template default."))
        }
        [one] => vnc(one).map(Some),
        _ => Err(Failure::new(Status::Usage, "--graphics is given twice; a machine has one screen")),
    }
}

fn vnc(text: &str) -> Result<Vnc, Failure> {
    let mut options = Suboptions::parse("--graphics", Some("type"), text);
    match options.take("type").as_deref() {
        Some("vnc") => {}
        Some("none") => return Err(Failure::new(Status::Usage, format!("--graphics {text}: none has no sub-options"))),
        other => {
            let given = other.unwrap_or("");
            let failure = Failure::new(Status::Usage, format!("--graphics {given}: kiln shows machines by VNC"));
            let failure = suggest(failure, given, &["vnc", "none"]);
            return Err(failure.advise("Use --graphics vnc, or --graphics none."));
        }
    }
    let number = port(&mut options, "port")?.and_then(|number| u16::try_from(number).ok());
    let listen = options.take("listen").unwrap_or_else(|| "127.0.0.1".into());
    let mut password = options.take("password");
    if let Some(file) = options.take("passwordFile") {
        let text = std::fs::read_to_string(&file).map_err(|e| {
            Failure::new(Status::NotFound, format!("--graphics passwordFile={file} can't be read")).because(&e)
        })?;
        password = Some(text.lines().next().unwrap_or_default().to_owned());
    }
    if let Some(password) = &password {
        kiln_rfb::Password::new(password).map_err(|e| {
            Failure::new(Status::Usage, "--graphics password=…: VNC can't use it").because(&e).advise(
                "VNC would cut a longer one to 8 bytes without a word. Use 1 to 8, and an ssh tunnel for what matters.",
            )
        })?;
    }
    let websocket = port(&mut options, "websocket")?;
    let keymap = options.take("keymap");
    if let Some(name) = keymap.as_deref().filter(|name| Layout::named(name).is_none()) {
        let failure = Failure::new(Status::Usage, format!("--graphics keymap={name}: there is no such keymap"));
        let names = LAYOUTS.map(|(name, _)| name);
        return Err(suggest(failure, name, &names).advise(format!("There are: {}.", Layout::names())));
    }
    let known = ["port", "listen", "password", "passwordFile", "websocket", "keymap"];
    options.finish(&known, &["tlsPort", "socket"])?;
    Ok(Vnc { listen, port: number, password, websocket, keymap })
}

fn port(options: &mut Suboptions, key: &str) -> Result<Option<i32>, Failure> {
    let number = options.take_number::<i32>(key)?;
    match number.filter(|number| !is_port(*number)) {
        None => Ok(number),
        Some(wrong) => {
            let hint = "a port number is expected, 1 to 65535, or -1 for a free one";
            Err(options.wrong(key, &wrong.to_string(), hint))
        }
    }
}

fn watch(autoconsole: Option<&str>, none: bool, no_screen: bool) -> Result<Watch, Failure> {
    match autoconsole {
        Some("text") if none => {
            Err(Failure::new(Status::Usage, "--autoconsole text and --noautoconsole exclude each other"))
        }
        Some("text") => Ok(Watch::Text),
        Some("none") => Ok(Watch::Nothing),
        Some(other) => {
            let failure = Failure::new(Status::Usage, format!("--autoconsole {other}: text or none is expected"));
            Err(suggest(failure, other, &["text", "none"]).advise("kiln view NAME shows the screen in a viewer."))
        }
        None if none || !no_screen => Ok(Watch::Nothing),
        None => Ok(Watch::Text),
    }
}

// Longer than this is for ever: a number of minutes may be as large as it likes.
const CENTURY_MINUTES: f64 = 100.0 * 365.0 * 24.0 * 60.0;

fn wait(minutes: Option<f64>, noautoconsole: bool) -> Result<Option<Duration>, Failure> {
    match minutes {
        Some(n) if n.is_nan() => Err(Failure::new(Status::Usage, "--wait NaN: a number of minutes is expected")),
        Some(n) if !(0.0..=CENTURY_MINUTES).contains(&n) => Ok(None),
        Some(n) => Ok(Some(Duration::from_secs_f64(n * 60.0))),
        None if noautoconsole => Ok(Some(Duration::ZERO)),
        None => Ok(None),
    }
}

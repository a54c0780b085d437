//! Verbs that reach into a running machine: keys, and lengths of disks.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::manner::said;
use super::size;
use crate::failure::{Failure, Status};
use crate::machine::Known;
use crate::runner::keymap::codeset::Codeset;
use crate::runner::keymap::qcode;

/// Press keys of a machine's keyboard: KEY_LEFTCTRL KEY_LEFTALT KEY_F2
#[derive(Debug, Args)]
pub(super) struct SendKey {
    /// Name of the machine
    name: String,
    /// What keys are named by: linux (KEY_A, or numbers), or the numbers of another set that virsh knows
    #[arg(long, value_name = "CODESET", default_value = "linux")]
    codeset: String,
    /// How long they are held, in milliseconds
    #[arg(long, value_name = "MS")]
    holdtime: Option<u32>,
    /// Keys, pressed together; as many as 16
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

/// Most keys at once (libvirt's VIR_DOMAIN_SEND_KEY_MAX_KEYS).
const MOST_KEYS: usize = 16;

impl SendKey {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        if self.keys.len() > MOST_KEYS {
            return Err(Failure::new(Status::Usage, format!("more than {MOST_KEYS} keys at once"))
                .in_virsh("too many keycodes"));
        }
        let codeset = Codeset::named(&self.codeset).ok_or_else(|| {
            Failure::new(Status::Usage, format!("there is no codeset {}", self.codeset))
                .advise(format!("There are: {}", Codeset::names()))
                .in_virsh(format!("unknown codeset: '{}'", self.codeset))
        })?;
        let numbers = self.keys.iter().map(|key| self.number(codeset, key)).collect::<Result<Vec<u8>, _>>()?;
        let keys: Vec<Value> = numbers.iter().map(|number| json!({ "type": "number", "data": number })).collect();
        let mut arguments = json!({ "keys": keys });
        if let (Some(hold), Some(arguments)) = (self.holdtime, arguments.as_object_mut()) {
            arguments.insert("hold-time".into(), hold.into());
        }
        Known::of(&self.name)?.running()?.command_with("send-key", arguments, None)?;
        Ok(ExitCode::SUCCESS)
    }

    fn number(&self, codeset: Codeset, key: &str) -> Result<u8, Failure> {
        if let Some(key) = Some(key).filter(|_| codeset == Codeset::Linux).and_then(qcode::linux) {
            return Ok(key);
        }
        let set = &self.codeset;
        let wrong = |why: String| Failure::new(Status::Usage, format!("the key {key:?}: {why}"));
        let number = number(key).ok_or_else(|| {
            let name = "a name of linux/input-event-codes.h is expected, such as KEY_A, KEY_ENTER, KEY_LEFTCTRL";
            let why = if codeset == Codeset::Linux {
                format!("{name}, or its number")
            } else {
                "a number is expected".into()
            };
            wrong(why).in_virsh(format!("invalid keycode: '{key}'"))
        })?;
        codeset.key(number).ok_or_else(|| {
            wrong(format!("no key of the keyboard has this number in the codeset {set}"))
                .in_virsh(format!("internal error: invalid keycode {number} of {set} codeset"))
        })
    }
}

// As C's strtoul does: hexadecimal behind 0x, octal behind 0, else decimal.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
}

/// Change the length of a running machine's disk; the guest is told
#[derive(Debug, Args)]
pub(super) struct BlockResize {
    /// Name of the machine
    name: String,
    /// Its disk: vda, or the image's file
    path: String,
    /// New length, in KiB or with a suffix (20G)
    size: String,
}

impl BlockResize {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let bytes = size::parse(&self.size, 1 << 10).filter(|bytes| *bytes > 0).ok_or_else(|| {
            Failure::new(Status::Usage, format!("the size {:?}: a number of KiB is expected, or e.g. 20G", self.size))
        })?;
        let running = Known::of(&self.name)?.running()?;
        let disks = running.command("query-block", None)?;
        let all = disks.as_array().map(Vec::as_slice).unwrap_or_default();
        let file = std::path::absolute(&self.path).unwrap_or_default();
        let is_meant = |disk: &&Value| {
            disk["device"] == self.path.as_str() || disk["inserted"]["file"].as_str().is_some_and(|path| file == *path)
        };
        let Some(disk) = all.iter().find(is_meant) else {
            let names: Vec<&str> = all.iter().filter_map(|disk| disk["device"].as_str()).collect();
            return Err(Failure::new(Status::NotFound, format!("{:?} has no disk {}", self.name, self.path))
                .advise(format!("There are: {}", names.join(", "))));
        };
        let now = disk["inserted"]["image"]["virtual-size"].as_u64().unwrap_or(0);
        if bytes < now {
            let what = format!("{} has {now} bytes; {bytes} would cut it under the running guest", self.path);
            return Err(Failure::new(Status::Conflict, what).advise(
                "Make the file system smaller, stop the machine, and then: kiln disk resize --shrink FILE SIZE",
            ));
        }
        let arguments = json!({ "device": disk["device"], "size": bytes });
        running.command_with("block_resize", arguments, None)?;
        said(&format!("Block device '{}' is resized\n", self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_name_and_number() {
        let keys = |codeset: &str, key: &str| {
            let words = SendKey { name: "web".into(), codeset: codeset.into(), holdtime: None, keys: vec![key.into()] };
            words.number(Codeset::named(codeset).unwrap(), key).map_err(|failure| failure.to_string())
        };
        assert_eq!((keys("linux", "KEY_ENTER"), keys("linux", "28")), (Ok(0x1c), Ok(0x1c)));
        assert_eq!((keys("linux", "0x1e"), keys("linux", "036")), (Ok(0x1e), Ok(0x1e)));
        assert_eq!((keys("qnum", "0x9d"), keys("qnum", "30")), (Ok(0x9d), Ok(30)));
        assert!(keys("linux", "ENTER").unwrap_err().contains("such as KEY_A"));
        assert!(keys("usb", "KEY_A").unwrap_err().contains("a number is expected"));
        assert!(keys("usb", "300").unwrap_err().contains("has this number in the codeset usb"));
        assert!(keys("linux", "+1").is_err() && keys("linux", "-1").is_err() && keys("linux", "0x").is_err());
    }
}

//! Memory of the host and the limits of the control groups around this process.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Memory in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// All of the host's.
    pub total: Option<u64>,
    /// What can be had without swapping, as the kernel estimates.
    pub available: Option<u64>,
    /// The tightest limit of the control groups this process is in.
    pub cgroup_limit: Option<u64>,
    /// What is left of that limit.
    pub cgroup_left: Option<u64>,
}

impl Memory {
    /// Reads /proc/meminfo and the control groups (Documentation/admin-guide/cgroup-v2.rst, "memory.max").
    pub(super) fn find(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
        };
        let limits = limits(root);
        let tightest = limits.iter().min_by_key(|(limit, used)| limit.saturating_sub(*used));
        Self {
            total: field("MemTotal"),
            available: field("MemAvailable"),
            cgroup_limit: tightest.map(|(limit, _)| *limit),
            cgroup_left: tightest.map(|(limit, used)| limit.saturating_sub(*used)),
        }
    }

    /// What a person reads.
    pub fn describe(&self) -> String {
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), mebibytes);
        let limit = match (self.cgroup_limit, self.cgroup_left) {
            (Some(limit), Some(left)) => {
                format!("the control group allows {}, {} of it free", mebibytes(limit), mebibytes(left))
            }
            _ => "no control group limit".into(),
        };
        format!("{}, {} available; {limit}", size(self.total), size(self.available))
    }

    /// The most that a new machine could get, in bytes.
    pub fn room(&self) -> Option<u64> {
        [self.available, self.cgroup_left].into_iter().flatten().min()
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

// (limit, used) of each group with a limit, from this process's own up to the root.
fn limits(root: &Path) -> Vec<(u64, u64)> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next(), fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let (base, limit, used) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
            list if list.split(',').any(|c| c == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder: PathBuf = root.join(base).join(group);
            let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
            // cgroup v1 writes "no limit" as a number near 2^63.
            if let Some(limit) = number(limit).filter(|n| *n < 1 << 60) {
                found.push((limit, number(used).unwrap_or(0)));
            }
        }
    }
    found
}

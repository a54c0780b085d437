//! The little of ELF that the lab needs: finding a function's bytes in a kernel module, a note in `.modinfo`, and
//! the shared libraries of a program.
//!
//! Source: System V ABI, chapters 4 and 5; offsets of ELF64.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    file.get(at..).and_then(|f| f.first_chunk()).copied().context("the ELF file is cut short")
}
fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}
fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}
fn u64_at(file: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(u64::from_le_bytes(bytes(file, at)?))?)
}

struct Section {
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

fn sections(file: &[u8]) -> Result<Vec<Section>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let table = u64_at(file, 40)?;
    (0..usize::from(u16_at(file, 60)?))
        .map(|i| {
            let at = table + i * SECTION_HEADER;
            Ok(Section {
                kind: u32_at(file, at + 4)?,
                offset: u64_at(file, at + 24)?,
                size: u64_at(file, at + 32)?,
                link: u32_at(file, at + 40)? as usize,
            })
        })
        .collect()
}

/// Where in the file the function `name` begins.
///
/// # Errors
/// When the file is no ELF64 file or has no such function.
pub fn function_offset(file: &[u8], name: &str) -> Result<usize> {
    let all = sections(file)?;
    for table in all.iter().filter(|s| s.kind == SHT_SYMTAB) {
        let names = all.get(table.link).context("the symbol table has no string table")?;
        for at in (table.offset..table.offset + table.size).step_by(SYMBOL) {
            let text = file.get(names.offset + u32_at(file, at)? as usize..).unwrap_or_default();
            let is_it = text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0);
            if is_it && bytes::<1>(file, at + 4)?[0] & 15 == STT_FUNC {
                let home = all.get(usize::from(u16_at(file, at + 6)?)).context("the symbol has no section")?;
                return Ok(home.offset + u64_at(file, at + 8)?);
            }
        }
    }
    bail!("no function {name} in the file")
}

/// Shared libraries that the program or library at `path` needs, with the loader: path in the lab to file here.
///
/// # Errors
/// When `ldd` can't be run or a library is missing.
pub fn libraries(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let output = Command::new("ldd").arg(path).stdin(Stdio::null()).output().context("running ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if line.contains("=> not found") {
            bail!("{} needs a library that is missing: {}", path.display(), line.trim());
        }
        let Some((name, _)) = line.rsplit_once(" (0x") else { continue };
        let name = name.rsplit(" => ").next().unwrap_or_default().trim();
        if name.starts_with('/') {
            found.insert(name.to_owned(), std::fs::canonicalize(name)?);
        }
    }
    Ok(found)
}

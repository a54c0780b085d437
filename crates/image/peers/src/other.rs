//! imago, as far as it is compared: opening and reading.

use std::io;
use std::path::Path;

use futures::executor::block_on;
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

/// Reads a qcow2 image and what lies below it, `most` bytes of it at most.
///
/// # Errors
/// When imago says so.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    block_on(async {
        let image = Qcow2::<File>::builder_path(path).open(PermissiveImplicitOpenGate::default()).await?;
        let disk = FormatAccess::new(image);
        let mut bytes = vec![0xa5; disk.size().min(most) as usize];
        disk.read(&mut bytes[..], 0).await?;
        Ok(bytes)
    })
}

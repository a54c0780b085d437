//! Numbers of running machines: each has the smallest that no other running machine of the store has.
//!
//! The file of that number stays locked as long as the machine's process lives.

use std::os::fd::OwnedFd;

use crate::failure::{Failure, Status};
use crate::machine::folders::Folders;
use crate::machine::{lock, store};

/// Most machines that run at once.
const MOST: u32 = 1 << 20;

/// Takes a number.
///
/// # Errors
/// When the file system refuses.
pub(super) fn take(folders: &Folders) -> Result<(u32, OwnedFd), Failure> {
    let folder = folders.runtime.join("ids");
    store::make_folder(&folder)?;
    for number in 1..MOST {
        let path = folder.join(number.to_string());
        let held = lock::try_lock(&path)
            .map_err(|e| Failure::new(Status::Failed, format!("locking {}", path.display())).because(&e))?;
        if let Some(held) = held {
            return Ok((number, held.into()));
        }
    }
    Err(Failure::new(Status::Failed, format!("{MOST} machines run already")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_free_number() {
        let (_home, store) = crate::machine::Store::scratch();
        let folders = store.folders();
        let (first, held) = take(folders).unwrap();
        let (second, _held) = take(folders).unwrap();
        assert_eq!((first, second), (1, 2));
        drop(held);
        assert_eq!(take(folders).unwrap().0, 1);
    }
}

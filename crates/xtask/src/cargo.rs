//! cargo, called from within a program that cargo itself has started.

use std::process::Command;

/// What cargo tells the program that it runs about its package. A build script that looks at its own such words would run
/// again, and all that depends on it be built again, each time that cargo is called from here and then by hand.
const OF_A_PACKAGE: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];

/// A cargo that builds the same things as one that was called by hand.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_A_PACKAGE.iter().any(|start| name.starts_with(start))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

//! Where requests are carried out.

use std::process::ExitCode;

use super::{Dialect, Request};
use crate::failure::{Failure, Status};

/// Does what was asked for.
pub fn perform(dialect: Dialect, request: Request) -> Result<ExitCode, Failure> {
    Err(Failure::new(Status::Usage, format!("not yet: {} {}", dialect.words(), request.verb())))
}

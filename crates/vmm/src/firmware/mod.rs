//! What stands between firmware and the machine that it runs on.

pub mod fw_cfg;

//! The screen and the hands: what a guest draws is what real viewers read, and what they type and point at arrives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

#[allow(dead_code, reason = "shared with tests/first_hour")]
mod browser;
mod desktop;
mod guest;
mod idle;
mod input;
mod pattern;
mod peers;
mod picture;
mod stage;
mod viewer;
mod viewers;

use stage::{Machine, Stage};

// A guest's boot is the dear part, so one serves for all that doesn't disturb one another.

#[test]
fn viewers_show_what_the_guest_draws_and_bring_it_keys_and_pointer() {
    let machine = Machine::install(Stage::any(), "peers", "en-us");
    input::typing(&machine);
    input::pointing(&machine);
    picture::looking(&machine);
    input::sending(&machine);
}

#[test]
fn viewers_come_and_go_and_crowd_and_misbehave() {
    let machine = Machine::install(Stage::any(), "crowd", "de");
    input::german(&machine);
    viewers::misbehaving(&machine);
    viewers::crowding(&machine);
}

#[test]
fn an_idle_machine_wakes_seldom() {
    idle::idling(&Machine::install(Stage::lab(), "idle", "en-us"));
}

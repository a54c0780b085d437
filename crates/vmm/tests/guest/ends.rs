//! The ways in which a guest's life ends, and what follows.

use kiln_vmm::config::{Action, Actions};
use kiln_vmm::machine::{Event, Outcome};
use kiln_vmm::power::ResetCause;

use super::story::{Guest, Recipe};

fn boot(append: &'static str) -> Guest {
    Recipe { append, ..Recipe::default() }.boot()
}

#[test]
fn poweroff_ends_the_machine() {
    kiln_lab::needs_kvm!(120);
    let guest = boot("");
    guest.types("poweroff -f");
    assert_eq!(guest.event_and_action(), (Event::PoweredOff, Outcome::Ended));
}

#[test]
fn a_preserved_machine_stands_after_poweroff() {
    kiln_lab::needs_kvm!(120);
    let actions = Actions { poweroff: Action::Preserve, ..Actions::default() };
    let guest = Recipe { actions, ..Recipe::default() }.boot();
    guest.types("poweroff -f");
    assert_eq!(guest.event_and_action(), (Event::PoweredOff, Outcome::Stands));
    guest.machine().pause();
    guest.machine().save().unwrap();
}

#[test]
fn reboot_goes_through_the_reset_register_and_boots_again() {
    kiln_lab::needs_kvm!(200);
    let guest = boot("");
    for _ in 0..2 {
        guest.types("reboot -f");
        assert_eq!(guest.event_and_action(), (Event::Reset(ResetCause::ResetControl), Outcome::Runs));
        guest.sees("GUEST READY");
        assert_eq!(guest.runs("echo $((6 * 7))"), "42\n");
    }
}

#[test]
fn a_triple_fault_resets() {
    kiln_lab::needs_kvm!(120);
    let guest = boot("reboot=triple");
    guest.types("reboot -f");
    assert_eq!(guest.event(), Event::Reset(ResetCause::TripleFault));
}

#[test]
fn the_keyboard_controller_resets() {
    kiln_lab::needs_kvm!(120);
    let guest = boot("reboot=kbd");
    guest.types("reboot -f");
    assert_eq!(guest.event(), Event::Reset(ResetCause::Keyboard));
}

#[test]
fn a_panic_resets_after_its_second() {
    kiln_lab::needs_kvm!(120);
    let guest = boot("");
    guest.types("echo c > /proc/sysrq-trigger");
    assert!(matches!(guest.event(), Event::Reset(_)));
}

#[test]
fn the_power_button_reaches_a_listener() {
    kiln_lab::needs_kvm!(120);
    let recipe = Recipe {
        modules: &["button", "evdev"],
        // Greets once somebody listens: events from before are lost.
        script: "event=$(sed -n '/LNXPWRBN/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p' /proc/bus/input/devices)
                 (dd if=/dev/input/$event bs=24 count=1 2>/dev/null | od -An -tu2 -j16 > /tmp/key; \
                  echo PRESSED $(cat /tmp/key)) &
                 until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/; do :; done
                 echo GUEST READY; exec sh",
        ..Recipe::default()
    };
    let guest = recipe.boot();
    assert_ne!(guest.runs("grep -c LNXPWRBN /proc/bus/input/devices"), "0\n");
    guest.machine().press_power_button();
    // EV_KEY, KEY_POWER, down (linux/input-event-codes.h).
    guest.sees("PRESSED 1 116 1");
}

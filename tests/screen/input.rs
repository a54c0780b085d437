//! Keys and pointer of vncdotool as the guest's input devices report them.

use crate::desktop::Window;
use crate::pattern::pattern;
use crate::peers::vncdo;
use crate::stage::Machine;
use crate::viewer::Viewer;

/// Type, code and value of an event (linux/input-event-codes.h).
type Event = (u16, u16, i32);

const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const REL_WHEEL: u16 = 8;
const KEY_LEFTSHIFT: u16 = 42;
const BTN_LEFT: u16 = 0x110;
const BTN_RIGHT: u16 = 0x111;
const BTN_MIDDLE: u16 = 0x112;

/// The events that the guest has printed, one a line: 8 numbers of time, type, code, value in two halves.
fn events(text: &str) -> Vec<Event> {
    let line = |line: &str| {
        let numbers = line.split_whitespace().map(|word| word.parse::<u16>().ok()).collect::<Option<Vec<_>>>()?;
        let [_, _, _, _, _, _, _, _, kind, code, low, high] = numbers[..] else { return None };
        Some((kind, code, (u32::from(high) << 16 | u32::from(low)).cast_signed()))
    };
    text.lines().filter_map(line).collect()
}

fn keys(events: &[Event]) -> Vec<(u16, i32)> {
    events.iter().filter(|(kind, ..)| *kind == EV_KEY).map(|(_, code, value)| (*code, *value)).collect()
}

fn moved(events: &[Event], axis: u16) -> i32 {
    events.iter().filter(|(kind, code, _)| (*kind, *code) == (EV_REL, axis)).map(|(.., value)| value).sum()
}

/// How far the mouse went so far, right and down.
pub fn motion(text: &str) -> (i32, i32) {
    let all = events(text);
    (moved(&all, REL_X), moved(&all, REL_Y))
}

// Waits for so many key events and gives them all.
fn waits_for_keys(machine: &Machine, count: usize) -> Vec<Event> {
    machine.waits("key events", |text| {
        let all = events(text);
        (keys(&all).len() >= count).then_some(all)
    })
}

/// Keys: as codes, and as the text that the guest's own terminal makes of them.
pub fn typing(machine: &Machine) {
    vncdo(machine.port, &["type", "kiln", "key", "f5", "key", "up", "key", "ctrl-alt-x", "key", "enter"]);
    // KEY_K, KEY_I, KEY_L, KEY_N, KEY_F5, KEY_UP (an extended one).
    let mut wanted: Vec<(u16, i32)> = [37, 23, 38, 49, 63, 103].iter().flat_map(|key| [(*key, 1), (*key, 0)]).collect();
    // KEY_LEFTCTRL, KEY_LEFTALT, KEY_X: held together, let go in turn.
    wanted.extend([(29, 1), (56, 1), (45, 1), (45, 0), (56, 0), (29, 0), (28, 1), (28, 0)]);
    let seen = keys(&waits_for_keys(machine, wanted.len()));
    assert_eq!(seen[..4 * 2 + 2 * 2], wanted[..4 * 2 + 2 * 2]);
    let sorted = |keys: &[(u16, i32)]| {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys
    };
    // In which order a combination is let go is the client's business.
    assert_eq!(sorted(&seen), sorted(&wanted));

    // The layout is right too, with Shift: the guest's own terminal reads the line.
    let line = "Aa Zz 19 -=[];',./\\` ~!@#$%^&*()_+{}|:\"<>?";
    vncdo(machine.port, &["type", line, "key", "enter"]);
    let typed = machine.waits("the typed line", |text| {
        let whole = text.split_inclusive('\n').filter(|l| l.starts_with("TYPED ") && l.ends_with('\n'));
        whole.map(str::to_owned).nth(1)
    });
    assert_eq!(typed.trim_end(), format!("TYPED {line}"));
}

/// Keys that went down or up, repeats left out: microseconds of the guest's clock, code, value. The first four of an
/// event's numbers are seconds, the next four microseconds.
fn presses(text: &str) -> Vec<(u64, u16, i32)> {
    let line = |line: &str| {
        let numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?;
        let number = |four: &[u64]| four.iter().rev().fold(0, |sum, part| sum << 16 | part);
        let (EV_KEY, code, value) = *events(line).first()? else { return None };
        (value != 2).then(|| (number(&numbers[..4]) * 1_000_000 + number(&numbers[4..8]), code, value))
    };
    text.lines().filter_map(line).collect()
}

/// Keys that `send-key` presses: by name and by numbers, together, and as long as it is told.
pub fn sending(machine: &Machine) {
    let before = machine.waits("events so far", |text| Some(presses(text).len()));
    for words in ["--codeset usb 4", "37 --holdtime 400", "KEY_LEFTCTRL KEY_B", "--codeset atset2 0xe075"] {
        machine.stage.sh(&format!("kiln send-key {} {words}", machine.name));
    }
    // KEY_A, KEY_K, KEY_B with KEY_LEFTCTRL around it, KEY_UP.
    let wanted = [(30, 1), (30, 0), (37, 1), (37, 0), (29, 1), (48, 1), (48, 0), (29, 0), (103, 1), (103, 0)];
    let seen = machine.waits("keys that were sent", |text| {
        let all = presses(text);
        (all.len() >= before + wanted.len()).then(|| all[before..].to_vec())
    });
    assert_eq!(seen.iter().map(|(_, code, value)| (*code, *value)).collect::<Vec<_>>(), wanted);
    let held = seen[3].0 - seen[2].0;
    assert!(held >= 400_000, "{held} microseconds");
}

/// Keys of a German keyboard, by keysym: z and y, an umlaut, and with AltGr held @; a dead key.
pub fn german(machine: &Machine) {
    vncdo(machine.port, &["key", "z", "key", "y", "key", "ü", "key", "ß", "key", "<"]);
    // KEY_Y, KEY_Z, KEY_LEFTBRACE, KEY_MINUS, KEY_102ND.
    let mut wanted: Vec<(u16, i32)> = [21, 44, 26, 12, 86].iter().flat_map(|key| [(*key, 1), (*key, 0)]).collect();
    // Shift, which vncdotool holds for <, and clicks mean nothing here.
    let without_shift = |machine: &Machine, count| {
        machine.waits("German keys", |text| {
            let mut all = keys(&events(text));
            all.retain(|(code, _)| *code != KEY_LEFTSHIFT && *code < BTN_LEFT);
            (all.len() >= count).then_some(all)
        })
    };
    assert_eq!(without_shift(machine, wanted.len()), wanted);
    let mut viewer = Viewer::new(machine.port);
    for (keysym, down) in
        [(0xfe03, true), (0x40, true), (0xfe03, false), (0x40, false), (0xfe52, true), (0xfe52, false)]
    {
        viewer.key(keysym, down);
    }
    // KEY_RIGHTALT, KEY_Q, KEY_GRAVE.
    wanted.extend([(100, 1), (16, 1), (100, 0), (16, 0), (41, 1), (41, 0)]);
    assert_eq!(without_shift(machine, wanted.len()), wanted);
    // These say which key it was, so that the keymap doesn't matter: KEY_Z, where an American z is.
    for mut window in [Window::tiger_vnc(machine.port, "ZRLE"), Window::gvncviewer(machine.port)] {
        window.waits_for(&pattern(1), || machine.threads());
        // No window manager is there to give a window the keyboard.
        window.xdotool(&["search", "--onlyvisible", "--name", machine.name, "windowfocus", "--sync", "key", "z"]);
        wanted.extend([(44, 1), (44, 0)]);
        assert_eq!(without_shift(machine, wanted.len()), wanted);
    }
}

/// Motion, buttons and wheel.
pub fn pointing(machine: &Machine) {
    // Events come later than the line that the last of them has ended: until the second time that KEY_ENTER went up.
    let before = machine.waits("the end of typing", |text| {
        let ends = |event: &(usize, Event)| event.1 == (EV_KEY, 28, 0);
        Some(events(text).into_iter().enumerate().filter(ends).nth(1)?.0 + 1)
    });
    let port = machine.port;
    // The first place only tells where the pointer is; what follows is motion.
    vncdo(port, &["move", "400", "300", "move", "430", "280", "click", "1", "click", "3", "click", "2", "click", "4"]);
    vncdo(port, &["move", "430", "300", "move", "130", "700", "click", "5", "click", "1"]);
    // Button 4 and 5 are the wheel: motion, no keys.
    let seen = machine.waits("clicks", |text| {
        let new = events(text).split_off(before);
        (keys(&new).len() >= 8).then_some(new)
    });
    let clicks = [BTN_LEFT, BTN_RIGHT, BTN_MIDDLE, BTN_LEFT].iter().flat_map(|button| [(*button, 1), (*button, 0)]);
    assert_eq!(keys(&seen), clicks.collect::<Vec<_>>());
    // 30 right, then 300 left; 20 up, 20 down, 400 down; the wheel once each way.
    assert_eq!((moved(&seen, REL_X), moved(&seen, REL_Y)), (30 - 300, 400), "{seen:?}");
    let wheel: Vec<_> = seen.iter().filter(|(kind, code, _)| (*kind, *code) == (EV_REL, REL_WHEEL)).collect();
    assert_eq!(wheel, [&(EV_REL, REL_WHEEL, 1), &(EV_REL, REL_WHEEL, -1)]);
}

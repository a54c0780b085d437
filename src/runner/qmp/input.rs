//! `send-key` and `input-send-event`.

use std::time::Duration;

use serde_json::{Value, json};

use super::arguments::{Arguments, Refusal};
use super::commands::Subject;
use crate::runner::keymap::qcode::qcode;

/// How long keys are held when nobody says it (QEMU's).
const HOLD: Duration = Duration::from_millis(100);
/// Longest that they may be held.
const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// Most keys at once, and most events in one command.
const MOST: usize = 1024;

/// A key as QMP writes it.
fn key(mut key: Arguments) -> Result<u8, Refusal> {
    let kind = key.string("type")?.ok_or_else(|| key.missing("type"))?;
    let code = match kind.as_str() {
        "qcode" => {
            let name = key.string("data")?.ok_or_else(|| key.missing("data"))?;
            qcode(&name).ok_or_else(|| Refusal::no_value("data", &name))?
        }
        "number" => {
            let number = key.integer("data")?.ok_or_else(|| key.missing("data"))?;
            u8::try_from(number).map_err(|_| Refusal::no_value("data", &number.to_string()))?
        }
        other => return Err(Refusal::no_value("type", other)),
    };
    key.finish()?;
    Ok(code)
}

/// Presses keys one after the other, holds them, and lets go in the other order.
pub(super) fn send_key(mut arguments: Arguments, subject: &dyn Subject) -> Result<Value, Refusal> {
    let keys = arguments.list("keys")?;
    let hold = arguments.integer("hold-time")?;
    arguments.finish()?;
    let place = |(number, value): (usize, Value)| Arguments::inside(&format!("keys[{number}]"), value).and_then(key);
    let keys = keys.into_iter().take(MOST).enumerate().map(place).collect::<Result<Vec<u8>, _>>()?;
    let hold = hold.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0).map_or(HOLD, Duration::from_millis);
    keys.iter().for_each(|key| subject.key(*key, true));
    // What is asked for is a time.
    std::thread::sleep(hold.min(LONGEST_HOLD));
    keys.iter().rev().for_each(|key| subject.key(*key, false));
    Ok(json!({}))
}

/// What one event of `input-send-event` does.
enum Event {
    Key(u8, bool),
    Button(u8, bool),
    Motion { x: i32, y: i32 },
}

fn event((number, value): (usize, Value)) -> Result<Event, Refusal> {
    let mut event = Arguments::inside(&format!("events[{number}]"), value)?;
    let kind = event.string("type")?.ok_or_else(|| event.missing("type"))?;
    let mut data = event.object("data")?;
    event.finish()?;
    let outcome = match kind.as_str() {
        "key" => {
            let code = key(data.object("key")?)?;
            Event::Key(code, data.boolean("down")?.ok_or_else(|| data.missing("down"))?)
        }
        "btn" => {
            let name = data.string("button")?.ok_or_else(|| data.missing("button"))?;
            let names = ["left", "middle", "right", "wheel-up", "wheel-down"];
            let number = (0u8..).zip(names).find(|(_, known)| *known == name).map(|(number, _)| number);
            let number = number.ok_or_else(|| Refusal::no_value("button", &name))?;
            Event::Button(number, data.boolean("down")?.ok_or_else(|| data.missing("down"))?)
        }
        "rel" => {
            let axis = data.string("axis")?.ok_or_else(|| data.missing("axis"))?;
            let by = data.integer("value")?.ok_or_else(|| data.missing("value"))?;
            let by = i32::try_from(by).unwrap_or(if by < 0 { i32::MIN } else { i32::MAX });
            match axis.as_str() {
                "x" => Event::Motion { x: by, y: 0 },
                "y" => Event::Motion { x: 0, y: by },
                other => return Err(Refusal::no_value("axis", other)),
            }
        }
        "abs" => return Err(Refusal::generic("Input handler not found for event type abs: the pointer is a mouse")),
        other => return Err(Refusal::no_value("type", other)),
    };
    data.finish()?;
    Ok(outcome)
}

/// Does a list of events, all understood before the first is done.
pub(super) fn send_events(mut arguments: Arguments, subject: &dyn Subject) -> Result<Value, Refusal> {
    let events = arguments.list("events")?;
    if arguments.string("device")?.is_some() || arguments.integer("head")?.is_some() {
        return Err(Refusal::generic("the machine has one screen; leave 'device' and 'head' out"));
    }
    arguments.finish()?;
    if events.len() > MOST {
        return Err(Refusal::generic(format!("more than {MOST} events in one command")));
    }
    let events = events.into_iter().enumerate().map(event).collect::<Result<Vec<_>, _>>()?;
    if subject.status() != "running" {
        return Err(Refusal::generic("VM not running"));
    }
    for event in events {
        match event {
            Event::Key(code, down) => subject.key(code, down),
            Event::Button(number, down) => subject.button(number, down),
            Event::Motion { x, y } => subject.pointer_moved(x, y),
        }
    }
    Ok(json!({}))
}

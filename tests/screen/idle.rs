//! An idle machine leaves the host alone. What is counted are wake-ups and exits, never time that something took.

use crate::stage::Machine;
use crate::viewer::Viewer;

/// Seconds that a look takes which counts.
const WINDOW: u32 = 10;

/// Seconds before it, in which what has just been begun comes to its end.
const SETTLING: u32 = 3;

/// Counts over a window of an idle machine.
#[derive(Debug)]
#[expect(dead_code, reason = "ticks are for who reads what the test prints: how long something takes is no verdict")]
struct Counts {
    /// Of all threads but the processors': how often they were switched to or from.
    wakes: u32,
    /// Of all processors to user space. KVM's own answers to port accesses count too, so it is rather too much.
    exits: u32,
    /// Clock ticks (10 ms) of the processor that all threads but the processors' used.
    ticks: u32,
}

/// Prints wakes, exits and ticks since the beginning.
const LOOK: &str = r#"look() {
    for task in /proc/$pid/task/*; do
        case $(cat $task/comm) in
        vcpu*) ;;
        *) cat $task/status; echo "ticks $(sed 's/.*) //' $task/stat | cut -d' ' -f12,13)" ;;
        esac
    done | awk '/ctxt_switches/ { wakes += $2 } /^ticks/ { ticks += $2 + $3 } END { print wakes + 0, ticks + 0 }'
    cat /sys/kernel/debug/kvm/$pid-*/io_exits /sys/kernel/debug/kvm/$pid-*/mmio_exits \
        /sys/kernel/debug/kvm/$pid-*/signal_exits | awk '{ sum += $1 } END { print sum + 0 }'
}"#;

fn counts(machine: &Machine, seconds: u32) -> Counts {
    let line = format!("pid={}\n{LOOK}\nlook; sleep {seconds}; look", machine.pid());
    let text = machine.stage.sh(&line);
    let numbers: Vec<u32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [wakes, ticks, exits, later_wakes, later_ticks, later_exits] = numbers[..] else { panic!("{text}") };
    assert!(wakes > 10 && exits > 1000, "a boot has many of both, or they aren't counted: {text}");
    Counts { wakes: later_wakes - wakes, exits: later_exits - exits, ticks: later_ticks - ticks }
}

/// Looks at an idle machine without and with a viewer.
pub fn idling(machine: &Machine) {
    // What a system does after its start, and the monitor with it, ends in the first look.
    eprintln!("settling: {:?} in {SETTLING} s", counts(machine, SETTLING));
    let alone = counts(machine, WINDOW);
    eprintln!("without a viewer: {alone:?} in {WINDOW} s");
    assert!(alone.wakes <= 2 * WINDOW && alone.exits <= 2 * WINDOW, "{alone:?} in {WINDOW} s");

    let mut viewer = Viewer::new(machine.port);
    viewer.look();
    viewer.request(true);
    let settling = counts(machine, SETTLING);
    let watched = counts(machine, WINDOW);
    eprintln!("with a viewer: {watched:?} in {WINDOW} s, before that {settling:?} in {SETTLING} s");
    assert!(watched.wakes <= 10 * WINDOW && watched.exits <= 2 * WINDOW, "{watched:?} in {WINDOW} s");
    // It was sent nothing meanwhile.
    viewer.stream.set_nonblocking(true).unwrap();
    let nothing = std::io::Read::read(&mut viewer.stream, &mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

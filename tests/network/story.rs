//! Two machines on user mode, from their leases to their last connection.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::guest::{self, Shell};
use super::home::{Home, KILN, install};
use super::host::{self, FAR, METADATA};
use super::talk::PATIENCE;

const SIZE: usize = 24 << 20;
const MAC: &str = "52:54:00:12:34:56";

/// Waits for an address by the gateway's word that nobody else has: before that connections come from another one.
const HAS_IPV6: &str =
    "until ip -6 addr show dev eth0 | grep 'inet6 fd6b:696c:6e00:2:.*global' | grep -qv tentative; do :; done";

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

// A stream of the host's, and one to it, arrive as they were.
fn streams(shell: &mut Shell, address: &str, there: &std::sync::mpsc::Receiver<String>, back: &str) {
    let sent = shell.does(&format!("head -c {SIZE} /dev/urandom > /tmp/f && sha256sum < /tmp/f"));
    shell.does(&format!("nc {address} 7001 < /tmp/f"));
    let arrived = there.recv_timeout(PATIENCE).unwrap();
    assert!(sent.contains(&arrived), "{sent} is sent, {arrived} arrives");
    let got = shell.does(&format!("nc {address} 7002 < /dev/null | sha256sum"));
    assert!(got.contains(back), "{back} is sent, {got} arrives");
}

#[test]
fn a_guest_on_user_mode() {
    kiln_lab::needs_lab!(560, KILN);
    host::prepare();
    let home = Home::new();
    let (boot, noise) = (guest::boot(&home), host::noise(SIZE));
    let back = host::hash(&noise);
    let there = host::hashes(FAR, 7001);
    host::sends(FAR, 7002, noise.clone());
    let network = format!("user,mac={MAC},portForward=18080:80,portForward1={FAR}:15353:5353/udp");
    let told = home.kiln(&install(&["--boot", &boot, "--network", &network, "--noautoconsole"])).ends(0);
    told.says(&[
        "network  vnet0 (52:54:00:12:34:56), user mode",
        "forward  127.0.0.1, tcp 18080 to the guest's 80",
        "forward  192.0.2.1, udp 15353 to the guest's 5353",
        "machines on user mode don't see each other",
    ]);
    let mut shell = Shell::of(&home, "web");

    // Its address, by DHCP, with the machine's name and the network's MTU.
    shell.does("ip link set eth0 up");
    let lease = shell.does("udhcpc -i eth0 -n -q -f -s /leased");
    assert!(lease.contains("LEASE 10.0.2.15 10.0.2.2 10.0.2.3 65520 web"), "{lease}");
    assert_eq!(shell.does("cat /sys/class/net/eth0/mtu").trim(), "65520");
    let wanted = " Name       MAC address          Protocol     Address
-------------------------------------------------------------------------------
 vnet0      52:54:00:12:34:56    ipv4         10.0.2.15/24
";
    for words in [&[][..], &["--full"], &["--source", "lease"], &["--interface", "vnet0"], &["--interface", MAC]] {
        assert_eq!(home.kiln(&[&["domifaddr", "web"], words].concat()).ends(0).out, wanted);
    }
    let none = home.kiln(&["domifaddr", "web", "--interface", "vnet9"]).ends(0).out;
    assert_eq!(none.lines().count(), 2, "the head alone: {none}");
    home.kiln(&["domifaddr", "web", "--source", "agent"]).ends(1).says(&["kiln talks to no agent"]);
    home.kiln(&["domifaddr", "web", "--source", "arp"]).ends(1).says(&["in no ARP table"]);
    home.kiln(&["domifaddr", "web", "--source", "bogus"]).ends(2).says(&["lease is expected"]);
    shell.does("ping -c 1 -w 20 10.0.2.2 && ping -c 1 -w 20 -s 60000 10.0.2.3");

    // The outside, and what may not be reached.
    streams(&mut shell, FAR, &there, &back);
    let forbidden = host::accepts(METADATA, 80);
    let loopback = host::accepts("127.0.0.1", 7009);
    for line in ["nc -w 9 169.254.169.254 80", "nc -w 9 10.0.2.2 7009", "nc -w 9 10.0.2.3 7009"] {
        assert_ne!(shell.runs(&format!("{line} < /dev/null")).1, 0, "{line}");
    }
    assert!(forbidden.try_recv().is_err() && loopback.try_recv().is_err(), "somebody got through");

    // Names, over UDP and TCP.
    let told = shell.does("nslookup kiln.test 10.0.2.3");
    assert!(told.contains("192.0.2.7"), "{told}");
    let told = shell.does("nc 10.0.2.3 53 < /query | hexdump -C");
    assert!(told.contains("c0 00 02 07"), "{told}");

    // Ports that lead in.
    shell.does("(echo from the guest | nc -l -p 80) & until netstat -ltn | grep -q :80; do :; done");
    let mut text = String::new();
    TcpStream::connect("127.0.0.1:18080").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "from the guest\n");

    // Datagrams: the guest's log.
    let log = UdpSocket::bind((FAR, 514)).unwrap();
    log.set_read_timeout(Some(PATIENCE)).unwrap();
    shell.does("syslogd -R 192.0.2.1:514 && logger from the guest");
    let mut bytes = [0; 500];
    let mut heard = String::new();
    while !heard.contains("from the guest") {
        let len = log.recv(&mut bytes).unwrap();
        heard.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }

    // IPv6: an address of its own making, by the gateway's word.
    shell.does(HAS_IPV6);
    shell.does("ping -6 -c 1 -w 20 fd6b:696c:6e00:2::2");

    many_connections(&home, &mut shell);
    cables_and_counts(&home, &mut shell);

    // The port is kiln's as long as the machine runs.
    assert!(TcpListener::bind("127.0.0.1:18080").is_err());
    home.kiln(&["destroy", "web"]).ends(0);
    TcpListener::bind("127.0.0.1:18080").unwrap();
    home.kiln(&["domifaddr", "web"]).ends(1).says(&["Failed to query", "domain is not running"]);
    home.kiln(&["undefine", "web"]).ends(0);
}

/// 300 at once: 256 are served, the log has one line, and the others are served when these end.
fn many_connections(home: &Home, shell: &mut Shell) {
    let streams = host::accepts(FAR, 7003);
    shell.does("mkfifo /p && exec 9<>/p");
    shell.does("i=0; while [ $i -lt 300 ]; do nc 192.0.2.1 7003 <&9 >/dev/null & i=$((i+1)); done 2>/dev/null");
    let log = || std::fs::read_to_string(home.store("state/logs/web/machine.log")).unwrap_or_else(|_| log_of(home));
    let line = "the guest has 256 connections, the most there may be";
    let mut held = Vec::new();
    // A few of the 256 may be those of before that haven't been forgotten yet.
    let deadline = Instant::now() + PATIENCE;
    while held.len() < 250 || !log().contains(line) {
        held.extend(streams.recv_timeout(Duration::from_millis(200)));
        assert!(Instant::now() < deadline, "{} connections come, and the log says:\n{}", held.len(), log());
    }
    held.extend(streams.try_iter());
    assert!(held.len() <= 256, "{} at once", held.len());
    let wanted = 300 - held.len();
    drop(held);
    let mut rest = 0;
    until("the others come", || {
        rest += streams.try_iter().count();
        rest >= wanted
    });
    assert_eq!(log().matches(line).count(), 1, "{}", log());
    shell.does("exec 9<&-; wait");
}

fn log_of(home: &Home) -> String {
    let found = home.files().into_iter().find(|path| path.ends_with("machine.log")).unwrap();
    std::fs::read_to_string(found).unwrap()
}

/// A cable that is pulled, and the verbs that tell of the card.
fn cables_and_counts(home: &Home, shell: &mut Shell) {
    let wanted = " Interface   Type   Source   Model    MAC
---------------------------------------------------------
 vnet0       user   -        virtio   52:54:00:12:34:56
";
    assert_eq!(home.kiln(&["domiflist", "web"]).ends(0).out, wanted);
    // Names are given to cards at the start.
    let next = home.kiln(&["domiflist", "web", "--inactive"]).ends(0);
    next.says(&[" -           user   -        virtio   52:54:00:12:34:56\n"]);
    home.kiln(&["domif-getlink", "web", "vnet0"]).ends(0).says(&["vnet0 up\n"]);
    home.kiln(&["domif-setlink", "web", "vnet0", "down"]).ends(0).says(&["Device updated successfully\n"]);
    home.kiln(&["domif-getlink", "web", MAC]).ends(0).says(&["down\n"]);
    shell.does("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do :; done");
    assert_ne!(shell.runs("ping -c 1 -w 1 10.0.2.2").1, 0);
    home.kiln(&["domif-setlink", "web", MAC, "up"]).ends(0);
    shell.does("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do :; done");
    shell.does("until ping -c 1 -w 5 10.0.2.2; do :; done");
    home.kiln(&["domif-setlink", "web", "vnet9", "up"]).ends(3).says(&["interface 'vnet9' not found"]);

    let count = |what: &str| {
        let told = home.kiln(&["domifstat", "web", "vnet0", "--json"]).ends(0).out;
        serde_json::from_str::<serde_json::Value>(&told).unwrap()[what].as_u64().unwrap()
    };
    let guests = shell.does("cat /sys/class/net/eth0/statistics/tx_packets");
    assert!(count("tx_packets") + count("tx_drop") >= guests.trim().parse().unwrap());
    assert!(count("rx_bytes") > SIZE as u64 && count("tx_bytes") > SIZE as u64);
    assert_eq!((count("tx_errs"), count("rx_errs")), (0, 0));
    let told = home.kiln(&["domifstat", "web", MAC]).ends(0).out;
    let names: Vec<&str> = told.lines().map(|line| line.rsplit_once(' ').map_or("", |(name, _)| name)).collect();
    let wanted = ["rx_bytes", "rx_packets", "rx_errs", "rx_drop", "tx_bytes", "tx_packets", "tx_errs", "tx_drop"];
    assert_eq!(names, wanted.map(|name| format!("{MAC} {name}")));
    home.kiln(&["domifstat", "web", "eth0"])
        .ends(3)
        .says(&["Failed to get interface stats web eth0", "invalid argument: 'eth0' is not a known interface"]);
}

#[test]
fn passt_at_the_usual_mtu_with_the_hosts_loopback() {
    kiln_lab::needs_lab!(400, KILN);
    let home = Home::new();
    let (boot, noise) = (guest::boot(&home), host::noise(SIZE));
    let back = host::hash(&noise);
    let there = host::hashes("127.0.0.1", 7001);
    host::sends("127.0.0.1", 7002, noise);
    let network = "passt,hostLoopback=yes,backend.hostname=inside,mtu.size=1500,link.state=down";
    let line = install(&["--boot", &boot, "--network", network, "--template", "small", "--noautoconsole"]);
    let line: Vec<&str> = without_graphics(&line);
    home.kiln(&line).ends(0).says(&["plays passt's part"]);
    let mut shell = Shell::of(&home, "web");
    // The cable is out until its user plugs it in.
    shell.does("ip link set eth0 up; [ $(cat /sys/class/net/eth0/carrier) = 0 ]");
    home.kiln(&["domif-setlink", "web", "vnet0", "up"]).ends(0);
    let lease = shell.does("udhcpc -i eth0 -n -q -f -s /leased");
    assert!(lease.contains("LEASE 10.0.2.15 10.0.2.2 10.0.2.3 1500 inside"), "{lease}");
    streams(&mut shell, "10.0.2.2", &there, &back);
    // What it was defined with is there again at the next start, unless that is changed.
    home.kiln(&["domif-getlink", "web", "vnet0", "--config"]).ends(3);
    home.kiln(&["domif-setlink", "web", "vnet0", "up", "--config"]).ends(0);
    assert!(home.kiln(&["dumpxml", "web", "--inactive"]).ends(0).out.contains("<link state='up'/>"));
    home.kiln(&["reset", "web"]).ends(0);
    shell.0.sees("GUEST READY");
    shell.does("ip link set eth0 up");
    shell.does("udhcpc -i eth0 -n -q -f -s /leased");
    shell.does("nc 10.0.2.2 7002 < /dev/null | head -c 1000 | wc -c");
    home.kiln(&["destroy", "web"]).ends(0);
}

#[test]
fn a_host_with_ipv6_alone_and_no_name_server() {
    kiln_lab::needs_lab!(300, KILN);
    let home = Home::new();
    let boot = guest::boot(&home);
    let noise = host::noise(4 << 20);
    let sent = home.file("noise", &noise);
    // A network of its own in which every IPv6 address of the Internet is this host, and no IPv4 one is anybody.
    let resolv = home.file("resolv.conf", "nameserver 192.0.2.1\n");
    let home_folder = home.store("").display().to_string();
    let script = format!(
        "export KILN_HOME={home_folder}
        ls /etc/resolv.conf || : > /etc/resolv.conf
        ip link set lo up && ip -6 route add local 2000::/3 dev lo && mount --bind {resolv} /etc/resolv.conf || exit 1
        (nc -ll -p 7002 -e cat {sent} < /dev/null > /dev/null 2>&1 &)
        exec \"$@\""
    );
    let network = format!("user,mac={MAC},portForward=[::1]:18081:80");
    let line = install(&["--boot", &boot, "--network", &network, "--noautoconsole"]);
    let told = std::process::Command::new("unshare")
        .args(["-n", "-m", "sh", "-c", &script, "sh", KILN])
        .args(&line)
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut shell = Shell::of(&home, "web");
    shell.does("ip link set eth0 up");
    shell.does("udhcpc -i eth0 -n -q -f -s /leased");
    shell.does(HAS_IPV6);
    shell.does("until ip -6 route | grep -q ^default; do :; done");
    let got = shell.does("nc 2001:db8::1 7002 < /dev/null | sha256sum");
    assert!(got.contains(&host::hash(&noise)), "{got}");
    // What nobody can reach is told, not waited for.
    assert_ne!(shell.runs("nc -w 60 192.0.2.1 7002 < /dev/null").1, 0);
    // Nobody answers for names: the guest is told so, and so is the log, once.
    let line = "none of the host's name servers answers (192.0.2.1:53)";
    for _ in 0..2 {
        assert_ne!(shell.runs("nslookup kiln.test 10.0.2.3").1, 0);
    }
    let log = log_of(&home);
    assert_eq!(log.matches(line).count(), 1, "{log}");
    home.kiln(&["destroy", "web"]).ends(0);
}

fn without_graphics<'a>(line: &[&'a str]) -> Vec<&'a str> {
    let at = line.iter().position(|word| *word == "--graphics").unwrap();
    line.iter().enumerate().filter(|(n, _)| *n != at && *n != at + 1).map(|(_, word)| *word).collect()
}

//! What is refused before a machine runs, with what, why and what to do.

use std::net::{TcpListener, UdpSocket};

use super::home::{Home, KILN, Told, install};

fn kernel(home: &Home) -> String {
    format!("kernel={}", home.file("vmlinuz", "a kernel, as far as anybody has looked"))
}

#[track_caller]
fn refused(network: &str, code: i32, says: &[&str]) {
    let home = Home::new();
    let boot = kernel(&home);
    let before = home.files();
    let told = home.kiln(&install(&["--boot", &boot, "--network", network, "--noautoconsole"]));
    told.ends(code).says(says);
    assert_eq!(home.files(), before);
    assert!(home.machines().is_empty());
}

#[test]
fn a_port_that_is_taken() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let text = format!("the port {taken}/tcp can't be forwarded");
    refused(
        &format!("user,portForward={}:80", taken.port()),
        4,
        &[&text, "1. ", "Something listens there", "portForward="],
    );
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let text = format!("the port {taken}/udp can't be forwarded");
    refused(&format!("user,portForward={}:80/udp", taken.port()), 4, &[&text]);
    // The same one twice.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    refused(&format!("user,portForward={free}:80,portForward1={free}:81"), 4, &["can't be forwarded"]);
    refused("user,portForward=192.0.2.99:8080:80", 1, &["192.0.2.99:8080/tcp", "not this host's"]);
}

#[test]
fn a_port_that_is_roots() {
    let home = Home::new();
    let boot = kernel(&home);
    let line = install(&["--boot", &boot, "--network", "user,portForward=80:80", "--noautoconsole"]);
    // Root without the right to such ports, which others don't have anyhow.
    let mut kiln = home.command(&line);
    if rustix::process::getuid().is_root() {
        let bare = home.command(&[&["--bounding-set=-net_bind_service", KILN], &line[..]].concat());
        kiln = std::process::Command::new("setpriv");
        kiln.args(bare.get_args()).env("KILN_HOME", home.store(""));
    }
    let told = Told::from((line.join(" "), kiln.output().unwrap()));
    told.ends(1).says(&["the port 127.0.0.1:80/tcp can't be forwarded", "1. ", "below 1024 are root's", "8080"]);
    assert!(home.machines().is_empty());
}

#[test]
fn networks_that_are_not_there() {
    refused("bridge=br0", 2, &["not yet: --network bridge=br0", "takes root"]);
    refused("type=direct,source=eth0", 2, &["not yet: --network direct", "takes root", "portForward="]);
    refused("network=lab", 2, &["there is no network 'lab'", "There is 'default'"]);
    refused("user,model=e1000e", 2, &["'e1000e' is not there", "Use virtio"]);
    refused("user,mac=01:00:5e:00:00:01", 2, &["multicast"]);
    refused("user,portForward=80-70", 2, &["portForward=80-70", "[ADDRESS:]PORT"]);
}

#[test]
fn what_is_asked_for_stands_in_the_definition() {
    let home = Home::new();
    let boot = kernel(&home);
    let network = "user,mac=52:54:00:12:34:56,mtu.size=1400,link.state=down,target.dev=tap-web,boot.order=1,\
                   portForward0=127.0.0.1:8080-8081:80,portForward1=5353/udp,hostLoopback=yes";
    let line = install(&["--boot", &boot, "--network", network, "--network", "default", "--print-xml"]);
    let xml = home.kiln(&line).ends(0).out;
    let wanted = "    <interface type='user'>
      <mac address='52:54:00:12:34:56'/>
      <portForward proto='tcp' address='127.0.0.1'>
        <range start='8080' end='8081' to='80'/>
      </portForward>
      <portForward proto='udp'>
        <range start='5353'/>
      </portForward>
      <target dev='tap-web'/>
      <model type='virtio'/>
      <backend type='passt'/>
      <boot order='1'/>
      <link state='down'/>
      <mtu size='1400'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:";
    assert!(xml.contains(wanted), "{xml}");
    assert!(xml.contains("host-loopback='yes'") && xml.contains("<source network='default'/>"), "{xml}");
    // One card on user mode when nothing is said.
    let line = install(&["--boot", &boot, "--print-xml"]);
    let line: Vec<&str> = line.iter().copied().filter(|word| *word != "--network").collect();
    let at = line.iter().position(|word| *word == "--graphics").unwrap() - 1;
    let line: Vec<&str> = line.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, word)| *word).collect();
    let xml = home.kiln(&line).ends(0).out;
    assert_eq!(xml.matches("<interface type='user'>").count(), 1, "{xml}");
    assert!(!xml.contains("<backend type="), "{xml}");
}

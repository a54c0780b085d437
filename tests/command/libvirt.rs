//! A machine that libvirt has made starts as it is, with a line about each thing that kiln does without.

use super::documents::is_valid;
use super::guest::{self, SHELL};
use super::home::{Home, KILN};
use super::talk::Talk;

/// As `virsh dumpxml` prints a q35 machine that virt-manager has made, but for the kernel.
fn document(kernel: &str, initrd: &str, disk: &str) -> String {
    let at = |bus: u8, slot: u8, function: u8| {
        format!("<address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='{function:#x}'/>")
    };
    let ports = (1..=14u8).map(|index| {
        let (slot, function) = (2 + (index - 1) / 8, (index - 1) % 8);
        let address = at(0, slot, function);
        let address = if function == 0 { address.replace("/>", " multifunction='on'/>") } else { address };
        format!(
            "<controller type='pci' index='{index}' model='pcie-root-port'><model name='pcie-root-port'/>\
             <target chassis='{index}' port='{:#x}'/>{address}</controller>",
            0x10 + index - 1
        )
    });
    let usb = [
        ("ich9-ehci1", 7, ""),
        ("ich9-uhci1", 0, "<master startport='0'/>"),
        ("ich9-uhci2", 1, "<master startport='2'/>"),
    ]
    .map(|(model, function, master)| {
        format!("<controller type='usb' index='0' model='{model}'>{master}{}</controller>", at(0, 0x1d, function))
    });
    format!(
        "<domain type='kvm'>
  <name>old</name>
  <uuid>8a1d3c52-7f0e-4b77-9c1c-1f4a52a1e0b7</uuid>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
      <libosinfo:os id='http://debian.org/debian/12'/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='KiB'>262144</memory>
  <currentMemory unit='KiB'>262144</currentMemory>
  <vcpu placement='static'>1</vcpu>
  <resource><partition>/machine</partition></resource>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=1</cmdline>
    <boot dev='hd'/>
  </os>
  <features><acpi/><apic/><vmport state='off'/></features>
  <cpu mode='host-passthrough' check='none' migratable='on'/>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='pit' tickpolicy='delay'/>
    <timer name='hpet' present='no'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
      {}
    </disk>
    {}
    <controller type='pci' index='0' model='pcie-root'/>
    {}
    <controller type='sata' index='0'>{}</controller>
    <controller type='virtio-serial' index='0'>{}</controller>
    <interface type='network'>
      <mac address='52:54:00:5a:3e:11'/>
      <source network='default'/>
      <model type='virtio'/>
      {}
    </interface>
    <serial type='pty'><target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <console type='pty'><target type='virtio' port='1'/></console>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/>
    </channel>
    <channel type='spicevmc'>
      <target type='virtio' name='com.redhat.spice.0'/>
      <address type='virtio-serial' controller='0' bus='0' port='2'/>
    </channel>
    <input type='tablet' bus='usb'><address type='usb' bus='0' port='1'/></input>
    <input type='keyboard' bus='usb'><address type='usb' bus='0' port='2'/></input>
    <input type='mouse' bus='ps2'/>
    <input type='keyboard' bus='ps2'/>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <graphics type='spice' autoport='yes'>
      <listen type='address'/>
      <image compression='off'/>
    </graphics>
    <sound model='ich9'>{}</sound>
    <audio id='1' type='spice'/>
    <video><model type='virtio' heads='1' primary='yes'/>{}</video>
    <redirdev bus='usb' type='spicevmc'><address type='usb' bus='0' port='3'/></redirdev>
    <redirdev bus='usb' type='spicevmc'><address type='usb' bus='0' port='4'/></redirdev>
    <watchdog model='itco' action='reset'/>
    <memballoon model='virtio'>{}</memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend>{}</rng>
    <panic model='isa'><address type='isa' iobase='0x505'/></panic>
  </devices>
</domain>
",
        at(4, 0, 0),
        usb.concat(),
        ports.collect::<String>(),
        at(0, 0x1f, 2),
        at(3, 0, 0),
        at(1, 0, 0),
        at(0, 0x1b, 0),
        at(0, 1, 0),
        at(5, 0, 0),
        at(6, 0, 0),
    )
}

#[test]
fn the_document_is_one_of_libvirt_s() {
    let document = document("/vmlinuz", "/initrd", "/disk.qcow2");
    // Schemas before libvirt 9.1 don't know the chipset's own watchdog.
    is_valid(&Home::new(), &document.replace("model='itco'", "model='i6300esb'"));
}

#[test]
fn a_machine_of_libvirt_s_starts() {
    kiln_lab::needs_kvm!(120, KILN);
    let home = Home::new();
    let disk = home.text("disk.qcow2");
    home.kiln(&["disk", "create", "-q", "-f", "qcow2", &disk, "16M"]).ends(0);
    let initrd = home.file("initrd", guest::initrd(SHELL));
    let path = home.file("old.xml", document(&guest::kernel(), &initrd, &disk));
    home.kiln(&["define", &path]).ends(0);
    let told = home.kiln(&["start", "old"]).ends(0);
    // A line each, in the document's order, and of what is there several times one.
    let notes: Vec<&str> = told.err.lines().filter_map(|line| line.strip_prefix("note: ")).collect();
    let begin = [
        "the usb controller is left out",
        "the sata controller is left out",
        "the virtio-serial controller is left out",
        "the virtio <console> (hvc0 in the guest) is left out",
        "the guest agent's <channel> is left out",
        "the spicevmc <channel> is left out",
        "PS/2 keyboard and mouse stand in for the tablet",
        "PS/2 keyboard and mouse stand in for the keyboard",
        "<tpm> is left out",
        "<sound> is left out",
        "<audio> is left out",
        "the standard VGA card stands in for video 'virtio'",
        "<redirdev> is left out",
        "<watchdog> is left out",
        "<memballoon> is left out",
        "<panic> is left out",
        "graphics 'spice' is left out, and nobody sees the screen: for VNC write",
    ];
    assert_eq!(notes.len(), begin.len(), "{notes:#?}");
    for (note, begin) in notes.iter().zip(begin) {
        assert!(note.starts_with(begin), "{begin}: {notes:#?}");
    }
    let mut console = Talk::on_terminal(&home.command(&["console", "old"]));
    console.sees("GUEST READY");
    console.types("cat /sys/block/vda/size; ls /sys/class/net | wc -w\r");
    console.sees("32768\r\n");
    // The screen is there for pictures alone.
    home.kiln(&["screenshot", "old", &home.text("screen.png")]).ends(0);
    home.kiln(&["vncdisplay", "old"]).ends(1);
    // The document is kept whole: under libvirt it is what it was.
    home.kiln(&["dumpxml", "old", "--inactive"]).ends(0).says(&["<channel type='spicevmc'>", "<graphics type='spice'"]);
}

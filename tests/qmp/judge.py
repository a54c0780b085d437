"""What QEMU's own QMP library (PyPI: qemu.qmp) and a real QEMU say of a kiln machine's control socket.

    judge.py ENDPOINT PICTURE

ENDPOINT is unix:PATH or tcp:PORT. PICTURE is a path where kiln runs. The machine's guest reads lines typed on its
keyboard: `reboot` and `poweroff` are obeyed. Everything is said on standard output; the exit status is 0 when all is
right.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

from qemu.qmp import EventListener, ExecuteError, QMPClient

PATIENCE = 120


def connected(endpoint):
    kind, place = endpoint.split(":", 1)
    if kind == "unix":
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(place)
    else:
        stream = socket.create_connection(("127.0.0.1", int(place)))
    stream.settimeout(PATIENCE)
    return stream


class Raw:
    """A client that sends bytes."""

    def __init__(self, endpoint):
        self.stream = connected(endpoint)
        self.lines = self.stream.makefile("rb")
        self.greeting = self.next()

    def next(self):
        line = self.lines.readline()
        return json.loads(line) if line else None

    def send(self, text):
        self.stream.sendall(text if isinstance(text, bytes) else text.encode())

    def ask(self, text):
        """Sends, and gives the next line that is no event."""
        self.send(text)
        while True:
            answer = self.next()
            if answer is None or "event" not in answer:
                return answer


# Answered alike by QEMU, in class and words.
ALIKE = [
    '{"execute":"qmp_capabilities"}',
    '{"execute":"qmp_capabilities","id":{"a":1}}',
    '{"execute":"nosuch","id":7}',
    '{"execute":"nosuch","id":null}',
    '{"foo":1}',
    "[1]",
    '{"execute":1}',
    '{}',
    '{"execute":"query-status","arguments":[]}',
    '{"execute":"query-status","foo":1}',
    '{"execute":"query-status","arguments":{"x":1}}',
    '{"execute":"query-commands","arguments":{"x":1}}',
    '{"execute":"screendump"}',
    '{"execute":"screendump","arguments":{"filename":1}}',
    '{"execute":"screendump","arguments":{"filename":"/nonexistent/x","format":"png"}}',
    '{"execute":"screendump","arguments":{"filename":"/x","format":"jpg"}}',
    '{"execute":"send-key"}',
    '{"execute":"send-key","arguments":{"keys":1}}',
    '{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"nokey"}]}}',
    '{"execute":"send-key","arguments":{"keys":[{"type":"qcode"}]}}',
    '{"execute":"send-key","arguments":{"keys":[{"data":"a"}]}}',
    '{"execute":"input-send-event","arguments":{"events":[{"type":"rel","data":{"axis":"q","value":1}}]}}',
    '{"execute":"input-send-event","arguments":{"events":[{"type":"btn","data":{"down":true,"button":"fifth"}}]}}',
    '{"execute":"block_resize","arguments":{"device":"nosuch","size":1024}}',
    '{"execute":"block_resize","arguments":{"size":1024}}',
    '{"execute":"block_resize","arguments":{"device":"vda","size":1000}}',
    '{"execute":"block_resize","arguments":{"device":"vda","size":-5}}',
    '{"execute":"block_resize","arguments":{"device":"vda"}}',
    "{'execute':'query-kvm','id':'single\\'quotes\"'}",
]


def qemu(folder):
    """A QEMU that stands before its first instruction, with a disk of the same name."""
    path, disk = os.path.join(folder, "qmp"), os.path.join(folder, "disk")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    process = subprocess.Popen(
        ["qemu-system-x86_64", "-S", "-nodefaults", "-machine", "q35", "-display", "none", "-vga", "std"]
        + ["-drive", f"if=none,id=vda,format=qcow2,file={disk}", "-device", "virtio-blk-pci,drive=vda"]
        + ["-qmp", f"unix:{path},server=on,wait=off"]
    )
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return process, Raw(f"unix:{path}")
        except OSError:
            assert process.poll() is None and time.monotonic() < end, "no QEMU"
            time.sleep(0.05)


def shape(answer):
    """What must be the same: errors to the word, of data the members."""
    if "return" in answer and isinstance(answer["return"], dict):
        return {**answer, "return": sorted(answer["return"])}
    return answer


def compare(endpoint):
    with tempfile.TemporaryDirectory() as folder:
        process, peer = qemu(folder)
        try:
            kiln = Raw(endpoint)
            package = kiln.greeting["QMP"]["version"]["package"]
            assert package.startswith("kiln-"), kiln.greeting
            assert kiln.greeting["QMP"]["capabilities"] == [], kiln.greeting
            early = '{"execute":"query-status"}'
            assert kiln.ask(early) == peer.ask(early), "before capabilities are agreed on"
            wrong = [text for text in ALIKE if shape(kiln.ask(text)) != shape(peer.ask(text))]
            # The first of them agrees on capabilities; each is asked anew to be shown.
            for text in wrong:
                print("differs:", text, kiln.ask(text), peer.ask(text))
            assert not wrong
            for command in ["query-status", "query-name", "query-version", "query-kvm", "query-vnc"]:
                text = json.dumps({"execute": command})
                ours, theirs = kiln.ask(text)["return"], peer.ask(text)["return"]
                print(command, ours, theirs)
                assert isinstance(ours, dict) and (set(theirs) <= set(ours) or command == "query-vnc")
            for command in ["query-block", "query-chardev", "query-cpus-fast", "query-commands"]:
                text = json.dumps({"execute": command})
                ours, theirs = kiln.ask(text)["return"], peer.ask(text)["return"]
                missing = set(theirs[0]) - set(ours[0])
                print(command, ours[0], missing)
                assert missing <= {"props"}, missing
            block = json.dumps({"execute": "query-block"})
            missing = set(peer.ask(block)["return"][0]["inserted"]) - set(kiln.ask(block)["return"][0]["inserted"])
            assert not missing, missing
        finally:
            process.kill()
            process.wait()


def garbage(endpoint):
    client = Raw(endpoint)
    client.ask('{"execute":"qmp_capabilities"}')
    for text in ["garbage\n", '{"execute": }\n', "}\n", b"\xff\xfe\x00\n", "\n\n\r\n7\n", "[" * 5000 + "]" * 5000 + "\n"]:
        answer = client.ask(text)
        assert answer["error"]["class"] == "GenericError", (text, answer)
    # In pieces, and several at once.
    for byte in b'{"execute": "query-name", "id": 1}':
        client.send(bytes([byte]))
    assert client.next()["id"] == 1
    client.send('{"execute":"query-status","id":2}{"execute":"query-name","id":3}\n{"execute":"query-kvm","id":4}')
    assert [client.next()["id"] for _ in range(3)] == [2, 3, 4]


async def event(listener, name):
    found = await asyncio.wait_for(listener.get(), PATIENCE)
    print("event", found)
    assert found["event"] == name, (name, found)
    assert abs(found["timestamp"]["seconds"] - time.time()) < 3600 and "microseconds" in found["timestamp"]
    return found.get("data")


async def types(client, text):
    for letter in text:
        key = {"\n": "ret"}.get(letter, letter)
        await client.execute("send-key", {"keys": [{"type": "qcode", "data": key}], "hold-time": 20})


async def session(endpoint, picture):
    kind, place = endpoint.split(":", 1)
    address = place if kind == "unix" else ("127.0.0.1", int(place))
    client, second = QMPClient("first"), QMPClient("second")
    await client.connect(address)
    await second.connect(address)
    listener, other = EventListener(), EventListener()
    client.register_listener(listener)
    second.register_listener(other)
    assert (await client.execute("query-name")) == {"name": "web"}
    assert (await client.execute("query-status"))["status"] == "running"
    assert len(await client.execute("query-cpus-fast")) == 2
    await client.execute("stop")
    await event(listener, "STOP")
    await event(other, "STOP")
    assert (await second.execute("query-status"))["status"] == "paused"
    await second.execute("stop")
    try:
        motion = [{"type": "rel", "data": {"axis": "x", "value": 5}}]
        await client.execute("input-send-event", {"events": motion})
        raise AssertionError("input to a paused machine")
    except ExecuteError as error:
        assert str(error) == "VM not running", error
    await second.execute("cont")
    await event(listener, "RESUME")
    await client.execute("input-send-event", {"events": motion + [{"type": "rel", "data": {"axis": "y", "value": -3}}]})
    button = lambda down: [{"type": "btn", "data": {"down": down, "button": "right"}}]
    await client.execute("input-send-event", {"events": button(True)})
    await client.execute("input-send-event", {"events": button(False)})
    key = lambda down: {"type": "key", "data": {"down": down, "key": {"type": "number", "data": 0xc8}}}
    await client.execute("input-send-event", {"events": [key(True), key(False)]})
    await client.execute("screendump", {"filename": picture + ".ppm"})
    await client.execute("screendump", {"filename": picture + ".png", "format": "png"})
    await client.execute("block_resize", {"device": "vda", "size": 2 << 20})
    size = (await client.execute("query-block"))[0]["inserted"]["image"]["virtual-size"]
    assert size == 2 << 20, size
    await client.execute("system_powerdown")
    await event(listener, "POWERDOWN")
    await client.execute("system_reset")
    assert (await event(listener, "RESET")) == {"guest": False, "reason": "host-qmp-system-reset"}
    print("RESET DONE", flush=True)
    # The caller says when the guest listens again.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await types(client, "reboot\n")
    assert (await event(listener, "RESET")) == {"guest": True, "reason": "guest-reset"}
    print("REBOOTED", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await types(client, "poweroff\n")
    assert (await event(listener, "SHUTDOWN")) == {"guest": True, "reason": "guest-shutdown"}
    await client.disconnect()


if __name__ == "__main__":
    where, picture = sys.argv[1:]
    compare(where)
    garbage(where)
    asyncio.run(session(where, picture))
    print("ALL RIGHT")

# SPDX-License-Identifier: GPL-2.0-or-later
"""A private vireod for a test: folders of its own, ended with the test; virsh against it; machines with scripted processors."""

import contextlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid

BUILD = pathlib.Path(os.environ.get("VIREO_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
WAIT = 20 * float(os.environ.get("VIREO_SLOW", "1"))

IDLE = ["idle"]
# Enables the power button, waits for its interrupt, and powers off: a guest that listens.
POLITE = ["out 0x602 2 0x100", "wait-irq 9 1", "in 0x600 2 0x100", "out 0x604 2 0x3400"]
POWEROFF = ["out 0x604 2 0x3400"]
PANIC = ["out 0x505 1 1", "idle"]


class Failure(Exception):
    """What a test expected did not happen."""


def until(condition, what, seconds=None):
    """Waits for condition() to be true; its value."""
    end = time.monotonic() + (seconds or WAIT)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"not within {seconds or WAIT} s: {what}")
        time.sleep(0.01)


class Daemon:
    """vireod with --runtime-dir, --state-dir and --config-dir below one temporary folder."""

    def __init__(self, *args):
        self.folder = tempfile.TemporaryDirectory(prefix="vireod-")
        self.root = pathlib.Path(self.folder.name)
        self.run = self.root / "run"
        self.args = args
        self.process = None
        self.log = ""
        self.start()

    def command(self):
        return [str(BUILD / "vireod"), "--vmm", str(BUILD / "vireo-vmm"), "--runtime-dir", str(self.run),
                "--state-dir", str(self.root / "state"), "--config-dir", str(self.root / "conf"), "--offer-null",
                *self.args]

    def start(self):
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self.answers, f"the daemon serves: {self.text()}")

    def answers(self):
        if self.process.poll() is not None:
            raise Failure(f"the daemon ended with {self.process.returncode}: {self.text()}")
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.run / "virtqemud-sock-ro"))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def text(self):
        return (self.root / "log").read_text(errors="replace")

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """As systemd would; its exit status."""
        self.process.terminate()
        return self.process.wait(WAIT)

    def pids(self):
        """Of the machines that run."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) > 2 and words[2].startswith(str(self.run).encode() + b"/"):
                found.append(int(entry.parent.name))
        return found

    def close(self):
        status = None
        if self.process.poll() is None:
            status = self.stop()
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        text = self.text()
        self.folder.cleanup()
        if status not in (None, 0):
            raise Failure(f"the daemon ended with {status}: {text[-3000:]}")

    # --- what tests use ---

    def uri(self, name="libvirt-sock"):
        return f"qemu:///system?socket={self.run / name}"

    def virsh(self, *words, check=True, readonly=False):
        """Its output, without white space at the ends; errors are part of it."""
        name = "libvirt-sock-ro" if readonly else "libvirt-sock"
        done = subprocess.run(["virsh", *(["-r"] if readonly else []), "-c", self.uri(name), *map(str, words)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False, timeout=6 * WAIT, env=dict(os.environ, LC_ALL="C"))
        if check and done.returncode != 0:
            raise Failure(f"virsh {words}: {done.stdout}\n{self.text()[-1000:]}")
        return done.stdout.strip()

    def fails(self, *words, **how):
        """The output of a command that must fail."""
        text = self.virsh(*words, check=False, **how)
        if "error:" not in text:
            raise Failure(f"virsh {words} did not fail: {text}")
        return text

    def xml(self, name, script=None, inside="<devices><console type='pty'/></devices>", **how):
        """The path of a definition of a machine that runs a script."""
        path = self.root / f"{name}.script"
        path.write_text("\n".join(script or IDLE) + "\n")
        text = (f"<domain type='{how.get('kind', 'null')}'><name>{name}</name>"
                f"<uuid>{how.get('uuid', uuid.uuid4())}</uuid><memory unit='MiB'>32</memory>"
                f"<os><type>hvm</type><kernel>{path}</kernel></os>{inside}</domain>")
        file = self.root / f"{name}.xml"
        file.write_text(text)
        return file

    def define(self, name, *args, **kwargs):
        self.virsh("define", self.xml(name, *args, **kwargs))

    def state(self, name):
        return self.virsh("domstate", name)


class Wire:
    """A connection that speaks frames, for what no client library would send."""

    REMOTE = 0x20008086

    def __init__(self, daemon, name="libvirt-sock", opened=True):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(str(daemon.run / name))
        self.serial = 0
        if not opened:
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self.sock.close)
            status, _ = self.call(1, struct.pack(">II", 0, 0))
            if status != 0:
                raise Failure("CONNECT_OPEN was refused")
            stack.pop_all()

    @staticmethod
    def frame(procedure, payload=b"", kind=0, serial=0, status=0, program=REMOTE, version=1):
        return struct.pack(">IIIiIII", 28 + len(payload), program, version, procedure, kind, serial, status) + payload

    def send(self, data):
        self.sock.sendall(data)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def receive(self):
        """(procedure, kind, serial, status, payload)"""
        length, _, _, procedure, kind, serial, status = struct.unpack(">IIIiIII", self.exactly(28))
        return procedure, kind, serial, status, self.exactly(length - 28)

    def call(self, procedure, payload=b"", **how):
        """(status, payload) of the answer to this call."""
        self.serial += 1
        self.send(self.frame(procedure, payload, serial=self.serial, **how))
        while True:
            _, kind, serial, status, answer = self.receive()
            if kind == 1 and serial == self.serial:
                return status, answer

    def error(self, procedure, payload=b"", **how):
        """(code, message) of a call that fails."""
        status, answer = self.call(procedure, payload, **how)
        if status != 1:
            raise Failure(f"procedure {procedure} did not fail")
        return parse_error(answer)

    def closed(self):
        """Is it closed from the other side, now or soon?"""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def close(self):
        self.sock.close()


def parse_error(payload):
    code, _, there = struct.unpack(">iiI", payload[:12])
    if not there:
        return code, ""
    length = struct.unpack(">I", payload[12:16])[0]
    return code, payload[16:16 + length].decode()


def text(value):
    """A string of XDR."""
    data = value.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)

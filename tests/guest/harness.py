# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine under test: starts vireo-vmm, talks to its serial line and its control socket.

Every wait is for something that is seen, and bounded; a wait that fails shows the end of what the guest printed.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import select
import socket
import subprocess
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VIREO_BUILD", TREE / "build"))
VMM = BUILD / "vireo-vmm"


# What --accel the machines get; empty: their own default.
ACCEL = os.environ.get("VIREO_ACCEL", "")


def slowness():
    """Bounds on waits are for a quiet machine with KVM; the lab's emulated host and the software CPU are many times slower."""
    if "VIREO_SLOW" in os.environ:
        return float(os.environ["VIREO_SLOW"])
    if "interpreter" in ACCEL:
        return 16
    return 4 if os.environ.get("VIREO_LAB") or ACCEL.startswith("soft") else 1


SLOW = slowness()


class Failure(Exception):
    """What a test expected did not happen."""


def artefact(name):
    """The path of a guest artefact (see make-guest); built when absent."""
    got = subprocess.run([str(TREE / "tests/guest/make-guest"), name], stdout=subprocess.PIPE, text=True, check=True)
    return got.stdout.strip()


class Qmp:
    """A QMP client of one connection, as small as can be."""

    def __init__(self, path, timeout=20):
        self.deadline = timeout
        self.events = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout * SLOW)
        end = time.monotonic() + timeout
        while True:
            try:
                self.sock.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end:
                    raise Failure(f"nobody listens on {path}") from None
                time.sleep(0.01)
        self.lines = self.sock.makefile("rb")
        self.greeting = json.loads(self.lines.readline())
        self.execute("qmp_capabilities")

    def _read(self):
        line = self.lines.readline()
        if not line:
            raise Failure("the control socket was closed")
        return json.loads(line)

    def raw(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self.sock.sendall(json.dumps(message).encode() + b"\n")
        while True:
            reply = self._read()
            if "event" not in reply:
                return reply
            self.events.append(reply)

    def execute(self, command, **arguments):
        reply = self.raw(command, **arguments)
        if "return" not in reply:
            raise Failure(f"{command}: {reply}")
        return reply["return"]

    def event(self, name, timeout=30):
        """The next event of that name; earlier ones of other names stay recorded."""
        for i, seen in enumerate(self.events):
            if seen["event"] == name:
                return self.events.pop(i)
        self.sock.settimeout(timeout * SLOW)
        while True:
            try:
                message = self._read()
            except TimeoutError:
                raise Failure(f"no event {name} within {timeout} s; seen: {self.events}") from None
            if message.get("event") == name:
                return message
            self.events.append(message)

    def close(self):
        self.lines.close()
        self.sock.close()


class Guest:
    """A running vireo-vmm. Use as a context manager: it is ended on the way out."""

    def __init__(self, *args, qmp=False, program=None, serial=True, env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="vireo-guest-")
        command = [*(program or [str(VMM)]), *[str(a) for a in args]]
        if ACCEL and "--accel" not in command:
            command += ["--accel", ACCEL]
        self.qmp_path = pathlib.Path(self.folder.name, "qmp")
        if qmp:
            command += ["--qmp", str(self.qmp_path)]
        self.output = b""
        self.seen = 0
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE if serial else None,
                                        stderr=subprocess.STDOUT if serial else None, env=env)
        self.qmp = None
        if qmp:
            try:
                self.qmp = Qmp(self.qmp_path)
            except Failure as why:
                self.end()
                raise Failure(f"{why}: {self.drain()}") from None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if self.qmp:
            self.qmp.close()
        self.folder.cleanup()

    def text(self):
        return self.output.decode(errors="replace")

    def drain(self):
        if self.process.stdout:
            self.output += self.process.stdout.read() or b""
        return self.text()[-3000:]

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def expect(self, pattern, timeout=60):
        """Waits until the regular expression matches what was printed since the last match; returns the match."""
        expression = re.compile(pattern.encode())
        timeout *= SLOW
        end = time.monotonic() + timeout
        while True:
            match = expression.search(self.output, self.seen)
            if match:
                self.seen = match.end()
                return match
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else None
            if data is None:
                raise Failure(f"no {pattern!r} within {timeout} s; the end of the output:\n{self.text()[-3000:]}")
            if not data:
                raise Failure(f"ended ({self.process.wait()}) before {pattern!r}; the end of the output:\n"
                              f"{self.text()[-3000:]}")
            self.output += data

    def shell(self, prompt="# ", timeout=60):
        """Waits for a shell's prompt and makes it one that command() can drive: no line editing, no echo."""
        self.expect(prompt, timeout)
        self.send("exec sh\n")
        self.expect("# ", timeout)
        self.send("stty -echo; PS1='READY''# '\n")
        self.expect("READY# ", timeout)

    def login(self, timeout=180):
        """A shell on the Debian root disk."""
        self.shell(r"root@\S+:~# ", timeout)

    def command(self, line, timeout=60):
        """Runs a line in the shell() on the console; returns its output."""
        self.send(f"{line}; echo VIREO-STATUS:$?\n")
        match = self.expect(r"(?s)(.*?)VIREO-STATUS:(\d+)\r?\n", timeout)
        self.expect("READY# ", timeout)
        if int(match[2]) != 0:
            raise Failure(f"{line!r} gave {int(match[2])}: {match[1].decode(errors='replace')}")
        return match[1].decode(errors="replace").replace("\r", "")

    def wait(self, timeout=60):
        """The exit status; everything printed is in output then."""
        timeout *= SLOW
        end = time.monotonic() + timeout
        while self.process.stdout:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure(f"still running after {timeout} s; the end of the output:\n{self.text()[-3000:]}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self.output += data
        try:
            return self.process.wait(max(end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            raise Failure(f"still running after {timeout} s") from None

    def rss_kib(self):
        """Resident memory of the VMM without guest RAM, and guest RAM that is resident; KiB each."""
        own = ram = 0
        in_ram = False
        for line in pathlib.Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                in_ram = "memfd:" in line
            elif line.startswith("Rss:"):
                kib = int(line.split()[1])
                ram, own = (ram + kib, own) if in_ram else (ram, own + kib)
        return own, ram


def script(text):
    """The kernel command line word that makes our initrd run a shell script and power off."""
    return "vireo.cmd=" + base64.b64encode(text.encode()).decode()


def linux(flavour="cloud", append="", **options):
    """The arguments that boot a Debian kernel with our initrd; options become --name=value."""
    args = ["--kernel", artefact(f"kernel-{flavour}"), "--initrd", artefact(f"initrd-{flavour}"),
            "--append", f"console=ttyS0 quiet panic=-1 {append}"]
    for key, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            args += ["--" + key.replace("_", "-"), str(item)]
    return args

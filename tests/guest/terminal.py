# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine on a terminal: `vireo run` on a pseudo-terminal, as a person starts it."""

import fcntl
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from harness import ACCEL, BUILD, SLOW, Failure


class Terminal:
    """A pseudo-terminal, and `vireo run` in the foreground on it. A context manager."""

    def __init__(self, *args, rows=24, columns=80):
        self.ours, self.theirs = pty.openpty()
        self.resize(rows, columns)
        self.cooked = termios.tcgetattr(self.theirs)
        self.output = b""
        self.seen = 0
        if ACCEL and "--accel" not in args:
            args += ("--accel", ACCEL)
        self.process = subprocess.Popen([str(BUILD / "vireo"), "run", *map(str, args)], stdin=self.theirs, stdout=self.theirs,
                                        stderr=self.theirs, start_new_session=True, preexec_fn=self._foreground)

    def _foreground(self):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)

    def resize(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def is_raw(self):
        return not termios.tcgetattr(self.theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_as_before(self):
        return termios.tcgetattr(self.theirs) == self.cooked

    def type(self, text):
        os.write(self.ours, text.encode())

    def expect(self, pattern, timeout=60):
        expression = re.compile(pattern.encode())
        end = time.monotonic() + timeout * SLOW
        while True:
            match = expression.search(self.output, self.seen)
            if match:
                self.seen = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.ours], [], [], left)[0]:
                raise Failure(f"no {pattern!r} on the terminal; its end:\n{self.text()}")
            self.output += os.read(self.ours, 65536)

    def text(self):
        return self.output[-2000:].decode(errors="replace")

    def wait(self, timeout=30):
        """The exit status; what is printed meanwhile is read, so that nobody waits for us."""
        end = time.monotonic() + timeout * SLOW
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Failure(f"vireo run is still there; the terminal's end:\n{self.text()}")
            if select.select([self.ours], [], [], 0.05)[0]:
                self.output += os.read(self.ours, 65536)
        return self.process.returncode

    def vmm(self):
        """The process identifier of its vireo-vmm."""
        end = time.monotonic() + 10 * SLOW
        while time.monotonic() < end:
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in children:
                if "vireo-vmm" in pathlib.Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
            time.sleep(0.02)
        raise Failure("vireo run has no vireo-vmm")


def wait_raw(terminal):
    end = time.monotonic() + 20 * SLOW
    while not terminal.is_raw():
        if time.monotonic() > end:
            raise Failure(f"the terminal does not become raw:\n{terminal.text()}")
        time.sleep(0.02)

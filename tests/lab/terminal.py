# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes into the lab on standard input, as frames for agent.py: a byte that says what, four for the length, data.

"d": bytes that were read; "e": there are no more; "w": the terminal's size, a struct winsize.
"""

import contextlib
import fcntl
import os
import signal
import struct
import termios
import tty

FRAME = struct.Struct("!cI")
CHUNK = 4096


def _frame(kind, data=b""):
    return FRAME.pack(kind, len(data)) + data


class Stdin:
    """The bytes of standard input up to its end."""

    def __init__(self):
        self.watched = [0]

    def begin(self):
        return b""

    def read(self, fd):
        """The frames for what there is on a watched descriptor."""
        data = os.read(fd, CHUNK)
        if data:
            return _frame(b"d", data)
        self.watched.remove(fd)
        return _frame(b"e")


class Terminal:
    """The caller's terminal, raw inside `with`: every key goes into the lab. Its size goes along, whenever it changes."""

    def __enter__(self):
        self._before = termios.tcgetattr(0)
        self._wake, self._woken = os.pipe()
        for fd in (self._wake, self._woken):
            os.set_blocking(fd, False)
        self._old_fd = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._old = signal.signal(signal.SIGWINCH, lambda *_: None)
        self.watched = [0, self._wake]
        tty.setraw(0, termios.TCSADRAIN)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        signal.signal(signal.SIGWINCH, self._old)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._wake)
        os.close(self._woken)

    def begin(self):
        return _frame(b"w", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))

    def read(self, fd):
        if fd == self._wake:
            os.read(fd, CHUNK)
            return self.begin()
        with contextlib.suppress(OSError):
            data = os.read(fd, CHUNK)
            if data:
                return _frame(b"d", data)
        raise SystemExit(128 + signal.SIGHUP)  # whoever sat there is gone

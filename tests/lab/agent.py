# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one command on the lab host for tests/lab/run, which is at the other end of four virtio-serial ports.

lab.ctl carries lines: "ready" out, the request (JSON, below) in, the command's status out; lab.out and lab.err
carry what the command prints, lab.in the frames described in terminal.py. The snapshot is taken while this program waits for the request, so everything
that is the same for all runs is done before "ready".
"""

import fcntl
import glob
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
import traceback

RNDRESEEDCRNG = 0x5207  # linux/random.h
FRAME = struct.Struct("!cI")


def open_port(name):
    for path in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(path, encoding="ascii") as f:
            if f.read().strip() == name:
                return os.open("/dev/" + path.split("/")[-2], os.O_RDWR)
    raise FileNotFoundError(name)


def read_line(fd):
    """One line; a port whose far end is away (a snapshot being restored) reads as empty."""
    data = b""
    while not data.endswith(b"\n"):
        got = os.read(fd, 65536)
        data += got
        if not got:
            time.sleep(0.01)
    return data


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def prepare(request):
    """Makes this restored host the caller's: clock, random numbers, shared folders, network."""
    time.clock_settime(time.CLOCK_REALTIME, request["time"])
    with open("/dev/urandom", "wb", buffering=0) as f:
        f.write(bytes.fromhex(request["entropy"]))
        fcntl.ioctl(f, RNDRESEEDCRNG)
    for m in request["mounts"]:
        os.makedirs(m["path"], exist_ok=True)
        # access=any: this end checks permissions itself instead of attaching once for each user.
        options = "trans=virtio,version=9p2000.L,msize=512000,access=any," + m["options"]
        subprocess.run(["mount", "-t", "9p", "-o", options, m["tag"], m["path"]], check=True)
    net = request["net"]
    if net:
        ip("link", "set", "eth0", "address", net["mac"], "up")
        ip("addr", "add", net["address"], "dev", "eth0")
        if net.get("gateway"):
            ip("route", "add", "default", "via", net["gateway"])
        if net.get("dns"):
            with open("/etc/resolv.conf", "w", encoding="ascii") as f:
                f.write(f"nameserver {net['dns']}\n")


def forward(source, port):
    """Passes on what is there; False at the end of file."""
    try:
        data = os.read(source, 65536)
    except BlockingIOError:
        return None
    except OSError:  # a terminal that nobody has open any more
        data = b""
    if not data:
        return False
    write_all(port, data)
    return True


class Feed:
    """Gives the command what comes through lab.in, at the command's pace: while it takes nothing, nothing is read."""

    def __init__(self, selector, port, sink):
        self.selector, self.port, self.sink = selector, port, sink
        self.frames = self.data = b""
        os.set_blocking(sink, False)
        selector.register(port, selectors.EVENT_READ, self.receive)

    def receive(self):
        self.frames += os.read(self.port, 65536)
        self.handle()

    def handle(self):
        """Takes whole frames apart, up to one that the command does not take at once."""
        while not self.data and len(self.frames) >= FRAME.size:
            kind, length = FRAME.unpack_from(self.frames)
            end = FRAME.size + length
            if len(self.frames) < end:
                return
            content, self.frames = self.frames[FRAME.size:end], self.frames[end:]
            if self.sink is None:
                continue
            if kind == b"d":
                self.data = content
                self.selector.unregister(self.port)
                self.selector.register(self.sink, selectors.EVENT_WRITE, self.deliver)
            elif kind == b"w":
                fcntl.ioctl(self.sink, termios.TIOCSWINSZ, content)
            elif kind == b"e":
                self.close()

    def deliver(self):
        try:
            self.data = self.data[os.write(self.sink, self.data):]
            gone = False
        except BlockingIOError:
            return
        except OSError:  # the command has closed it; whatever still comes is dropped
            gone = True
        if gone or not self.data:
            self.data = b""
            self.selector.unregister(self.sink)
            self.selector.register(self.port, selectors.EVENT_READ, self.receive)
            if gone:
                self.close()
            self.handle()

    def close(self):
        os.close(self.sink)
        self.sink = None


def spawn(request, out, err):
    """Starts the command: (process, {descriptor of its output: port}, descriptor of its input or None)."""
    def own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    if request["input"] == "terminal":
        master, slave = os.openpty()
        inner, streams, sink, setup = [slave] * 3, {master: out}, os.dup(master), own_terminal
    else:
        (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe()
        in_r, sink = os.pipe() if request["input"] == "pipe" else (os.open(os.devnull, os.O_RDONLY), None)
        inner, streams, setup = [in_r, out_w, err_w], {out_r: out, err_r: err}, None
    try:
        child = subprocess.Popen(request["argv"], cwd=request["cwd"], env=request["env"], stdin=inner[0], stdout=inner[1],
                                 stderr=inner[2], start_new_session=True, preexec_fn=setup)
    finally:
        for fd in set(inner):
            os.close(fd)
    for r in streams:
        os.set_blocking(r, False)
    return child, streams, sink


def run(request, out, err, feed):
    """Runs the command, forwards its output as it comes; the status is the shell's: 128 + signal when killed."""
    try:
        child, streams, sink = spawn(request, out, err)
    except OSError as e:
        write_all(err, f"lab: {request['argv'][0]}: {e.strerror}\n".encode())
        return 127 if isinstance(e, FileNotFoundError) else 126
    pidfd = os.pidfd_open(child.pid)
    with selectors.DefaultSelector() as selector:
        def output(source):
            if forward(source, streams[source]) is False:
                selector.unregister(source)

        for fd in streams:
            selector.register(fd, selectors.EVENT_READ, lambda fd=fd: output(fd))
        if sink is not None:
            Feed(selector, feed, sink)
        selector.register(pidfd, selectors.EVENT_READ)
        ended = False
        while not ended:
            for key, _ in selector.select():
                if key.fd == pidfd:
                    ended = True
                else:
                    key.data()
    # What the command wrote before it ended is in the pipes; what it left running is not waited for.
    for fd, port in streams.items():
        while forward(fd, port):
            pass
    status = child.wait()
    return status if status >= 0 else 128 - status


def main():
    ctl, out, err, feed = (open_port(n) for n in ("lab.ctl", "lab.out", "lab.err", "lab.in"))
    # A virtio port sends it when its far end goes away. Not ignored: commands would inherit that, as they would
    # the other two from the shell that started this program.
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    write_all(ctl, b"ready\n")
    request = json.loads(read_line(ctl))
    try:
        prepare(request)
    except Exception:  # whatever it is, the caller must be told
        write_all(err, traceback.format_exc().encode())
        write_all(ctl, b"125\n")
        return
    status = run(request, out, err, feed)
    os.sync()  # written files are on the caller's side before the status is
    write_all(ctl, b"%d\n" % status)
    while True:
        time.sleep(3600)  # the caller ends this machine


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one command on the lab host for tests/lab/run, which is at the other end of three virtio-serial ports.

lab.ctl carries lines: "ready" out, the request (JSON, below) in, the command's status out; lab.out and lab.err
carry what the command prints. The snapshot is taken while this program waits for the request, so everything
that is the same for all runs is done before "ready".
"""

import fcntl
import glob
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback

RNDRESEEDCRNG = 0x5207  # linux/random.h


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
    if not data:
        return False
    write_all(port, data)
    return True


def run(request, out, err):
    """Runs the command, forwards its output as it comes; the status is the shell's: 128 + signal when killed."""
    streams = {}
    ends = []
    for port in (out, err):
        r, w = os.pipe()
        os.set_blocking(r, False)
        streams[r] = port
        ends.append(w)
    try:
        child = subprocess.Popen(request["argv"], cwd=request["cwd"], env=request["env"], stdin=subprocess.DEVNULL,
                                 stdout=ends[0], stderr=ends[1], start_new_session=True)
    except OSError as e:
        write_all(err, f"lab: {request['argv'][0]}: {e.strerror}\n".encode())
        return 127 if isinstance(e, FileNotFoundError) else 126
    for w in ends:
        os.close(w)
    pidfd = os.pidfd_open(child.pid)
    with selectors.DefaultSelector() as selector:
        for fd in (*streams, pidfd):
            selector.register(fd, selectors.EVENT_READ)
        ended = False
        while not ended:
            for key, _ in selector.select():
                if key.fd == pidfd:
                    ended = True
                elif forward(key.fd, streams[key.fd]) is False:
                    selector.unregister(key.fd)
    # What the command wrote before it ended is in the pipes; what it left running is not waited for.
    for fd, port in streams.items():
        while forward(fd, port):
            pass
    status = child.wait()
    return status if status >= 0 else 128 - status


def main():
    ctl, out, err = (open_port(n) for n in ("lab.ctl", "lab.out", "lab.err"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a virtio port sends it when its far end goes away
    write_all(ctl, b"ready\n")
    request = json.loads(read_line(ctl))
    try:
        prepare(request)
    except Exception:  # whatever it is, the caller must be told
        write_all(err, traceback.format_exc().encode())
        write_all(ctl, b"125\n")
        return
    status = run(request, out, err)
    os.sync()  # written files are on the caller's side before the status is
    write_all(ctl, b"%d\n" % status)
    while True:
        time.sleep(3600)  # the caller ends this machine


if __name__ == "__main__":
    sys.exit(main())

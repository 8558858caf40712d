# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated KVM host: a QEMU process with TCG, and the sockets to the agent in it.

Everything the process needs is handed to it as open descriptors of unnamed files and socket pairs, so there is
nothing to clean up behind it but the process itself.
"""

import json
import os
import secrets
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time

import debian
import kernel

SCRATCH_BYTES = 8 << 30  # /dev/vdb, sparse
SHARES = ("tree", "cache")  # the 9p exports; their number is part of the snapshot
PORTS = ("ctl", "out", "err", "in")


def qemu():
    debian.need("qemu-system-x86_64", "qemu-system-x86")
    return shutil.which("qemu-system-x86_64")


def _escape(text):
    """A value inside one of QEMU's comma-separated options."""
    return str(text).replace(",", ",,")


class Gone(debian.Failure):
    """The machine ended by itself."""


class Late(Exception):
    """The time given was used up."""


class Machine:
    """A context manager: the process lives inside `with` only.

    ram is the file behind the guest's memory (none: a private one). With keep_ram the guest writes into it;
    without, the file is a snapshot's, mapped copy-on-write, and the machine waits for restore().
    counted: its clock is a count of the instructions it has executed.
    net is a QEMU -netdev value after the id; fds are descriptors it refers to.
    """

    def __init__(self, root, initrd, memory, smp, *, counted=False, ram=None, keep_ram=False, shares=(),
                 net="hubport,hubid=0", fds=(), append="", extra=()):
        self.restored = ram is not None and not keep_ram
        self.sockets = {}
        self.serial = tempfile.TemporaryFile()
        self.errors = tempfile.TemporaryFile()
        self._buffers = {"ctl": b"", "qmp": b""}
        with tempfile.TemporaryFile() as scratch:
            scratch.truncate(SCRATCH_BYTES)
            passed = [scratch.fileno(), self.serial.fileno(), *fds]
            theirs = {}
            for name in (*PORTS, "qmp"):
                self.sockets[name], theirs[name] = socket.socketpair()
                passed.append(theirs[name].fileno())
            home = kernel.linux("amd64")
            share = "on" if keep_ram else "off"
            backend = f"memory-backend-file,id=ram,size={memory}M,mem-path={_escape(ram)},share={share}"
            if ram is None:
                backend = f"memory-backend-memfd,id=ram,size={memory}M"
            command = [qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                       "-accel", f"tcg,thread={'single' if counted else 'multi'}", "-cpu", "EPYC,+svm,+npt", "-smp", str(smp),
                       "-M", "q35,memory-backend=ram", "-m", f"{memory}M", "-object", backend,
                       "-kernel", str(home / "vmlinux"), "-initrd", str(initrd),
                       "-append", f"console=ttyS0 panic=-1 nokaslr mitigations=off quiet {append}",
                       "-chardev", f"file,id=serial,path=/proc/self/fd/{self.serial.fileno()}", "-serial", "chardev:serial",
                       "-drive", f"file={_escape(root)},format=raw,if=virtio,readonly=on,file.locking=off",
                       "-drive", f"file=/proc/self/fd/{scratch.fileno()},format=raw,if=virtio,file.locking=off,discard=unmap",
                       "-chardev", f"socket,id=qmp,fd={theirs['qmp'].fileno()}", "-mon", "chardev=qmp,mode=control",
                       "-device", "virtio-serial-pci"]
            for name in PORTS:
                command += ["-chardev", f"socket,id={name},fd={theirs[name].fileno()}",
                            "-device", f"virtserialport,chardev={name},name=lab.{name}"]
            paths = dict(shares)
            for tag in SHARES:
                readonly = ",readonly=on" if tag == "cache" else ""
                command += ["-virtfs", f"local,path={_escape(paths.get(tag, '/'))},mount_tag={tag},"
                            f"security_model=none,multidevs=remap{readonly if tag in paths else ',readonly=on'}"]
            kind, _, rest = net.partition(",")
            command += ["-netdev", f"{kind},id=net{',' + rest if rest else ''}",
                        "-device", "virtio-net-pci,netdev=net,romfile="]
            if counted:  # an instruction a nanosecond; while all wait, time leaps to the next timer
                command += ["-icount", "shift=0,sleep=off"]
            command += extra
            if self.restored:
                command += ["-incoming", "defer"]
            self.command = command
            # The kernel ends QEMU should this program be killed outright.
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], pass_fds=passed,
                                            stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors)
            for s in theirs.values():
                s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for s in self.sockets.values():
            s.close()
        self.serial.close()
        self.errors.close()

    def tail(self, file, lines=25):
        """The end of what the console or QEMU said."""
        text = os.pread(file.fileno(), 1 << 20, max(0, os.fstat(file.fileno()).st_size - (1 << 20)))
        return "\n".join(text.decode(errors="replace").replace("\r", "").splitlines()[-lines:])

    def _line(self, name, deadline):
        """One line from a socket, without its end."""
        while b"\n" not in self._buffers[name]:
            readable, _, _ = select.select([self.sockets[name]], [], [], max(0, deadline - time.monotonic()))
            if not readable:
                raise Late
            data = self.sockets[name].recv(65536)
            if not data:
                raise self.gone()
            self._buffers[name] += data
        line, _, self._buffers[name] = self._buffers[name].partition(b"\n")
        return line

    def gone(self):
        """The error for a machine that has ended by itself."""
        status = self.process.wait()
        return Gone(f"the lab host ended by itself (QEMU's status {status})\n{self.tail(self.errors)}\n"
                    f"--- the end of its console:\n{self.tail(self.serial)}")

    def wait_ready(self, seconds):
        """Waits until the agent of a machine that boots waits for its request."""
        try:
            while self._line("ctl", time.monotonic() + seconds) != b"ready":
                pass
        except Late:
            raise debian.Failure(f"the lab host did not boot in {seconds} s; its console ends with:\n"
                                 f"{self.tail(self.serial)}") from None

    def _qmp(self, command, deadline, **arguments):
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.sockets["qmp"].sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(self._line("qmp", deadline))
            if "error" in answer:
                raise debian.Failure(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def _migration_setup(self, deadline):
        self._qmp("qmp_capabilities", deadline)
        names = ("x-ignore-shared", "events")
        self._qmp("migrate-set-capabilities", deadline, capabilities=[{"capability": n, "state": True} for n in names])

    def _migration_end(self, deadline):
        while True:
            event = json.loads(self._line("qmp", deadline))
            if event.get("event") == "MIGRATION":
                status = event["data"]["status"]
                if status == "completed":
                    return
                if status == "failed":
                    raise debian.Failure(f"QEMU cannot save or restore the lab host:\n{self.tail(self.errors)}")

    def save(self, state, seconds):
        """Stops the machine and writes its device state; its memory is in the RAM file already."""
        deadline = time.monotonic() + seconds
        self._migration_setup(deadline)
        self._qmp("stop", deadline)
        self._qmp("migrate", deadline, uri=f"exec:exec cat >{shlex.quote(str(state))}")
        self._migration_end(deadline)

    def restore(self, state, deadline):
        """Lets a machine go on from a snapshot's state. Its agent does not say "ready" again."""
        self._migration_setup(deadline)
        self._qmp("migrate-incoming", deadline, uri=f"exec:exec cat {shlex.quote(str(state))}")
        self._migration_end(deadline)
        self._qmp("cont", deadline)

    def execute(self, request, deadline, write, source=None):
        """Hands the agent its request, passes output to write(fd, data), returns the command's status.

        source is what the command reads, as an object of terminal.py.
        """
        request = {**request, "time": time.time(), "entropy": secrets.token_hex(64)}
        self.sockets["ctl"].sendall(json.dumps(request).encode() + b"\n")
        outputs = {self.sockets["out"]: 1, self.sockets["err"]: 2}
        feed = self.sockets["in"]
        feed.setblocking(False)
        pending = source.begin() if source else b""
        status = None
        while status is None:
            # Nothing is read from the caller until the lab has taken what was read before.
            inputs = source.watched if source and not pending else []
            readable, writable, _ = select.select([self.sockets["ctl"], *outputs, *inputs], [feed] if pending else [], [],
                                                  max(0, deadline - time.monotonic()))
            if not readable and not writable:
                raise Late
            if writable:
                pending = pending[feed.send(pending):]
            for s in readable:
                if s in outputs:
                    self._pass_on(s, outputs[s], write)
                elif s in inputs:
                    pending += source.read(s)
                else:
                    status = int(self._line("ctl", deadline))
        # The agent writes its status last, so all output is in these sockets by now.
        for s, fd in outputs.items():
            while select.select([s], [], [], 0)[0]:
                self._pass_on(s, fd, write)
        return status

    def _pass_on(self, source, fd, write):
        data = source.recv(1 << 18)
        if not data:
            raise self.gone()
        write(fd, data)

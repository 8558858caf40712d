#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""vireod as a service manager runs it: sockets handed over, readiness told; a user's own daemon; who may connect.

usage: test_service.py [unittest options]; VIREO_BUILD names the build folder.
"""

import os
import pathlib
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from daemon import BUILD, WAIT, Daemon, Wire, parse_error, until  # noqa: E402

GET_URI, DOMAIN_DEFINE_XML = 110, 11


class Place:
    """What Wire wants of a daemon: where its sockets are."""

    def __init__(self, run):
        self.run = pathlib.Path(run)


class Service(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vireod-")
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def wire(self, run, name, **how):
        wire = Wire(Place(run), name, **how)
        self.addCleanup(wire.close)
        return wire

    def launch(self, command, **how):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **how)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_sockets_handed_over_and_readiness(self):
        given = []
        for name in ("one-sock", "two-sock-ro"):
            sock = socket.socket(socket.AF_UNIX)
            self.addCleanup(sock.close)
            sock.bind(str(self.root / name))
            sock.listen()
            given.append(sock)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(notify.close)
        notify.bind(str(self.root / "notify"))
        notify.settimeout(WAIT)
        # The numbers that the protocol wants are made by the shell: 3 and 4.
        shell = (f'LISTEN_PID=$$ LISTEN_FDS=2 NOTIFY_SOCKET={self.root}/notify exec "$@" 3<&{given[0].fileno()} 4<&{given[1].fileno()}')
        process = self.launch(["sh", "-c", shell, "sh", str(BUILD / "vireod"), "--vmm", str(BUILD / "vireo-vmm"), "--runtime-dir",
                               str(self.root / "run"), "--state-dir", str(self.root / "state"), "--config-dir",
                               str(self.root / "conf")], pass_fds=[sock.fileno() for sock in given])
        self.assertEqual(notify.recv(100), b"READY=1")
        self.assertFalse((self.root / "run/libvirt-sock").exists())
        self.assertEqual(self.wire(self.root, "one-sock").call(GET_URI)[0], 0)
        status, answer = self.wire(self.root, "two-sock-ro").call(DOMAIN_DEFINE_XML)
        self.assertEqual((status, parse_error(answer)[0]), (1, 29))
        process.terminate()
        self.assertEqual(process.wait(WAIT), 0)
        self.assertTrue((self.root / "one-sock").exists())

    def test_a_user_s_own_daemon(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to become somebody else")
        user = pwd.getpwnam("nobody")
        os.chown(self.root, user.pw_uid, user.pw_gid)
        env = {"HOME": str(self.root), "XDG_RUNTIME_DIR": str(self.root), "PATH": os.environ["PATH"]}
        # A build folder that others cannot enter is no place for their programs.
        for name in ("vireod", "vireo-vmm"):
            (self.root / name).write_bytes((BUILD / name).read_bytes())
            (self.root / name).chmod(0o755)
        process = self.launch([str(self.root / "vireod")], env=env, user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        path = self.root / "libvirt/libvirt-sock"
        until(path.exists, "it serves")
        until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o600, "only for its user")
        status, answer = self.wire(path.parent, path.name).call(GET_URI)
        self.assertEqual((status, answer[4:]), (0, b"qemu:///session\0"))
        self.assertTrue((self.root / ".config/vireo/machines").is_dir())
        process.terminate()
        self.assertEqual(process.wait(WAIT), 0)

    def test_who_is_not_of_the_group_gets_nothing(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to become somebody else")
        daemon = Daemon()
        self.addCleanup(daemon.close)
        daemon.root.chmod(0o755)
        user = pwd.getpwnam("nobody")
        ask = ("import socket,sys\nfor name in sys.argv[1:]:\n s=socket.socket(socket.AF_UNIX)\n try:\n  s.connect(name)\n"
               "  print('in')\n except PermissionError:\n  print('out')")
        names = [str(daemon.run / name) for name in ("libvirt-sock", "virtqemud-sock", "libvirt-sock-ro")]
        said = subprocess.run([sys.executable, "-c", ask, *names], user=user.pw_uid, group=user.pw_gid, extra_groups=[],
                              stdout=subprocess.PIPE, text=True, check=True, cwd="/")
        self.assertEqual(said.stdout.split(), ["out", "out", "in"])
        # What is kept is nobody else's, either.
        self.assertEqual(stat.S_IMODE((daemon.root / "conf/machines").stat().st_mode), 0o700)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""vireod and clients that no library would be: frames that are malformed, slow, endless; rights; what waits for whom.

usage: test_wire.py [unittest options]; VIREO_BUILD names the build folder.
"""

import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from daemon import POLITE, WAIT, Daemon, Wire, parse_error, text, until  # noqa: E402

LIST_ALL_DOMAINS, GET_LIB_VERSION, GET_CAPABILITIES, SUPPORTS_FEATURE, AUTH_LIST = 273, 157, 7, 60, 66
DOMAIN_DEFINE_XML, LOOKUP_BY_NAME, DOMAIN_SUSPEND, OPEN = 11, 23, 34, 1
NO_SUPPORT, DENIED, RPC, NO_DOMAIN, AUTH = 3, 29, 39, 42, 45
PROCEDURES = pathlib.Path(__file__).resolve().parents[2] / "docs/libvirt-procedures.md"


def procedures():
    """(number, name, state, allowed to read-only clients) of program remote."""
    body = PROCEDURES.read_text(encoding="utf-8").split("## Program qemu")[0]
    for row in re.findall(r"^\| (\d+) \| (\w+) \| ([^|]*) \| ([^|]*) \|$", body, re.M):
        yield int(row[0]), row[1], row[2].split(":")[0], row[3].strip() == "yes"


class WireTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def wire(self, *args, **kwargs):
        wire = Wire(self.daemon, *args, **kwargs)
        self.addCleanup(wire.close)
        return wire

    def alive(self):
        """Another client is served."""
        self.assertEqual(self.wire().call(GET_LIB_VERSION), (0, struct.pack(">Q", 10000000)))

    def test_a_frame_may_come_a_byte_at_a_time(self):
        wire = self.wire()
        for byte in Wire.frame(GET_LIB_VERSION, serial=9):
            wire.send(bytes([byte]))
        self.assertEqual(wire.receive()[2:4], (9, 0))

    def test_calls_may_be_many_in_one_packet(self):
        wire = self.wire()
        wire.send(b"".join(Wire.frame(GET_LIB_VERSION, serial=i) for i in range(500)))
        self.assertEqual(sorted(wire.receive()[2] for _ in range(500)), list(range(500)))

    def test_impossible_lengths_end_the_connection(self):
        for length in (0, 1, 27, (32 << 20) + 1, 0xffffffff):
            wire = self.wire()
            wire.send(struct.pack(">I", length) + bytes(64))
            self.assertTrue(wire.closed(), length)
        self.alive()

    def test_what_has_not_opened_may_send_little(self):
        wire = self.wire(opened=False)
        wire.send(struct.pack(">I", 1 << 20))
        self.assertTrue(wire.closed())
        wire = self.wire("libvirt-sock-ro")
        wire.send(struct.pack(">I", 1 << 20))
        self.assertTrue(wire.closed())

    def test_what_only_a_server_sends_ends_the_connection(self):
        for kind in (1, 2, 4, 5, 6, 7, 0xffffffff):
            wire = self.wire()
            wire.send(Wire.frame(GET_LIB_VERSION, kind=kind))
            self.assertTrue(wire.closed(), kind)
        wire = self.wire()
        wire.send(Wire.frame(GET_LIB_VERSION, status=1))
        self.assertTrue(wire.closed())

    def test_unknown_programs_versions_and_procedures_are_errors(self):
        wire = self.wire()
        self.assertEqual(wire.error(1, program=0x12345678)[0], RPC)
        self.assertEqual(wire.error(1, version=2)[0], RPC)
        for number in (0, -1, 100000, 2**31 - 1, -2**31):
            code, message = wire.error(number)
            self.assertEqual(code, RPC)
            self.assertIn(f"unknown procedure: {number}", message)
        # One that is known and not there: clients fall back on this code.
        self.assertEqual(wire.error(203, struct.pack(">I", 0))[0], NO_SUPPORT)
        self.alive()

    def test_arguments_are_checked_to_the_last_byte(self):
        wire = self.wire()
        for payload in (b"", b"\0\0\0", struct.pack(">I", 5) + b"abc", struct.pack(">I", 0xffffffff),
                        text("a") + b"\0\0\0\0", struct.pack(">I", 4 << 20) + b"abcd"):
            code, message = wire.error(LOOKUP_BY_NAME, payload)
            self.assertEqual(code, RPC, payload)
            self.assertIn("malformed", message)
        self.assertEqual(wire.error(LOOKUP_BY_NAME, text("nobody"))[0], NO_DOMAIN)

    def test_nothing_is_answered_before_open_but_what_may_be(self):
        wire = self.wire(opened=False)
        self.assertEqual(wire.call(AUTH_LIST), (0, struct.pack(">II", 1, 0)))
        self.assertEqual(wire.call(SUPPORTS_FEATURE, struct.pack(">i", 10))[0], 0)
        for number, name, state, _ in procedures():
            if name in ("CONNECT_OPEN", "AUTH_LIST", "CONNECT_SUPPORTS_FEATURE"):
                continue
            self.assertEqual(wire.error(number)[0], AUTH, name)
        self.assertEqual(wire.call(OPEN, struct.pack(">II", 0, 0))[0], 0)
        self.assertEqual(wire.error(OPEN, struct.pack(">II", 0, 0))[0], RPC)

    def test_a_read_only_client_changes_nothing(self):
        """Every procedure is tried, on the read-only socket and with the read-only flag on the other."""
        for wire in (self.wire("libvirt-sock-ro"), self.wire(opened=False)):
            if wire.serial == 0:
                self.assertEqual(wire.call(OPEN, struct.pack(">II", 0, 1))[0], 0)
            tried = 0
            for number, name, state, allowed in procedures():
                if name in ("CONNECT_OPEN", "CONNECT_CLOSE"):
                    continue
                status, answer = wire.call(number, b"\xff" * 4)
                code = parse_error(answer)[0] if status else 0
                self.assertEqual(code == DENIED, not allowed, (name, code))
                tried += 1
            self.assertGreater(tried, 440)

    def test_what_read_only_clients_may_call_only_asks(self):
        changing = re.compile(r"_(CREATE|DEFINE|UNDEFINE|DESTROY|SHUTDOWN|REBOOT|RESET|SUSPEND|RESUME|SET|ATTACH|DETACH|"
                              r"OPEN|SAVE|RESTORE|DUMP|RENAME|SEND|INJECT|UPLOAD|DOWNLOAD|DELETE|RESIZE|WIPE|BUILD|"
                              r"REFRESH|COMMAND|PIN|MIGRATE|ABORT|UPDATE)(_|$)")
        for _, name, state, allowed in procedures():
            if state == "done" and allowed and name not in ("CONNECT_OPEN", "DOMAIN_HAS_MANAGED_SAVE_IMAGE"):
                self.assertIsNone(changing.search(name), name)

    def test_who_never_reads_is_not_served_for_ever_and_holds_nobody_up(self):
        wire = self.wire()
        wire.sock.setblocking(False)
        sent = 0
        frame = Wire.frame(GET_CAPABILITIES) * 100
        deadline = time.monotonic() + WAIT
        # Until the daemon takes no more: its memory is bounded by what it stops reading.
        while time.monotonic() < deadline:
            try:
                sent += wire.sock.send(frame)
                stuck = time.monotonic()
            except BlockingIOError:
                if time.monotonic() - stuck > 0.5:
                    break
                time.sleep(0.01)
        else:
            self.fail(f"{sent} bytes were taken and never an answer read")
        self.alive()
        rss = pathlib.Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        self.assertLess(int(re.search(r"VmRSS:\s+(\d+)", rss)[1]), 400 * 1024)

    def test_many_clients(self):
        wires = [self.wire() for _ in range(300)]
        for wire in wires:
            wire.send(Wire.frame(GET_LIB_VERSION, serial=77))
        for wire in wires:
            self.assertEqual(wire.receive()[2], 77)

    def test_a_read_does_not_wait_for_a_job(self):
        """A machine that does not end when asked keeps its job for seconds; what is read meanwhile is answered at once."""
        self.daemon.define("busy", POLITE)
        self.daemon.virsh("start", "busy")
        pid = self.daemon.pids()[0]
        self.addCleanup(self.daemon.virsh, "undefine", "busy")
        wire, other = self.wire(), self.wire()
        status, handle = wire.call(LOOKUP_BY_NAME, text("busy"))
        self.assertEqual(status, 0)
        os.kill(pid, signal.SIGSTOP)
        wire.send(Wire.frame(DOMAIN_SUSPEND, handle, serial=1000))
        for _ in range(20):
            self.assertEqual(other.call(212, handle + struct.pack(">I", 0)), (0, struct.pack(">ii", 1, 1)))
            self.assertEqual(other.call(14, handle + struct.pack(">I", 0))[0], 0)
        # On the connection of the job, too.
        self.assertEqual(wire.call(GET_LIB_VERSION)[0], 0)
        os.kill(pid, signal.SIGCONT)
        self.assertEqual(wire.receive()[2:4], (1000, 0))
        self.daemon.virsh("destroy", "busy")

    def test_keepalive_is_answered_and_asked_for(self):
        wire = self.wire(opened=False)
        self.assertEqual(wire.call(SUPPORTS_FEATURE, struct.pack(">i", 10)), (0, struct.pack(">i", 1)))
        wire.send(Wire.frame(1, kind=2, program=0x6b656570))
        self.assertEqual(wire.receive()[:4], (2, 2, 0, 0))
        self.assertEqual(wire.call(OPEN, struct.pack(">II", 0, 0))[0], 0)
        # Its own, after some seconds of silence.
        self.assertEqual(wire.receive()[:4], (1, 2, 0, 0))

    def test_a_definition_is_refused_when_it_is_a_bomb(self):
        wire = self.wire()
        bomb = "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><domain>&b;</domain>"
        self.assertEqual(wire.error(DOMAIN_DEFINE_XML, text(bomb))[0], 27)
        self.assertEqual(wire.error(DOMAIN_DEFINE_XML, text("<a>" * 300000))[0], 27)
        self.assertEqual(wire.error(DOMAIN_DEFINE_XML, text(" " * (4 << 20)))[0], 27)

    def test_two_daemons_do_not_share_folders(self):
        done = subprocess.run(self.daemon.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False, timeout=WAIT)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another vireod uses", done.stdout)


if __name__ == "__main__":
    unittest.main()

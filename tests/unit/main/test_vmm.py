#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""vireo-vmm as a whole, with a scripted processor instead of a guest: exit statuses, events, stop and reset.

Needs neither KVM nor a kernel, so it runs everywhere, under the sanitizers too. Usage: test_vmm.py [unittest options]
"""

import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "guest"))

from harness import VMM, Failure, Guest, Qmp  # noqa: E402

POWEROFF = "out 0x604 2 0x3400"  # SLP_EN with the type of S5
RESET = "out 0xcf9 1 6"
PANIC = "out 0x505 1 1"
EXIT = "out 0xf4 1 {}"  # debug-exit: status (V << 1) | 1


class Scripted(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vireo-vmm-")
        self.addCleanup(self.folder.cleanup)

    def vmm(self, *lines, args=(), qmp=False):
        path = pathlib.Path(self.folder.name, "script")
        path.write_text("\n".join(lines) + "\n")
        guest = Guest("--accel", f"null,script={path}", "--memory", "32M", "--debug-exit", "0xf4", *args, qmp=qmp)
        self.addCleanup(guest.end)
        return guest

    def status(self, *lines, args=()):
        guest = self.vmm(*lines, args=args)
        return guest.wait(30), guest.text()

    def test_power_off_is_status_0_and_nothing_runs_after_it(self):
        status, text = self.status(POWEROFF, EXIT.format(0x11))
        self.assertEqual(status, 0, text)

    def test_debug_exit_gives_the_status(self):
        self.assertEqual(self.status(EXIT.format(0x10))[0], 0x21)

    def test_no_reboot_ends_at_the_reset_and_nothing_runs_after_it(self):
        status, text = self.status(RESET, EXIT.format(0x11), args=["--no-reboot"])
        self.assertEqual(status, 0, text)

    def test_a_triple_fault_resets(self):
        status, text = self.status("reset", EXIT.format(0x11), args=["--no-reboot"])
        self.assertEqual(status, 0, text)

    def test_after_a_reset_the_machine_runs_again(self):
        guest = self.vmm(RESET, qmp=True)
        for _ in range(3):
            self.assertEqual(guest.qmp.event("RESET")["data"], {"guest": True, "reason": "guest-reset"})
        guest.qmp.execute("quit")
        self.assertEqual(guest.wait(30), 0)

    def test_a_failed_processor_is_status_1_with_its_reason(self):
        status, text = self.status("in 0x3fd 1 0x00")
        self.assertEqual(status, 1, text)
        self.assertIn("vCPU 0", text)

    def test_a_panic_is_status_3_and_an_event(self):
        guest = self.vmm("wait-kick", PANIC, "idle", args=["--paused"], qmp=True)
        guest.qmp.execute("cont")
        guest.qmp.execute("stop")
        guest.qmp.execute("cont")
        guest.qmp.event("GUEST_PANICKED")
        self.assertEqual(guest.qmp.event("SHUTDOWN")["data"], {"guest": True, "reason": "guest-panic"})
        self.assertEqual(guest.wait(30), 3)

    def test_the_serial_line_is_standard_output(self):
        status, text = self.status(*[f"out 0x3f8 1 {ord(c)}" for c in "hello\n"], POWEROFF)
        self.assertEqual(status, 0)
        self.assertIn("hello", text)

    def test_stop_and_cont(self):
        guest = self.vmm("idle", args=["--cpus", "3"], qmp=True)
        self.assertEqual(guest.qmp.execute("query-status")["status"], "running")
        for _ in range(50):
            guest.qmp.execute("stop")
            self.assertEqual(guest.qmp.execute("query-status")["status"], "paused")
            guest.qmp.execute("cont")
        guest.qmp.event("STOP")
        guest.qmp.event("RESUME")
        cpus = guest.qmp.execute("query-cpus-fast")
        self.assertEqual(len({cpu["thread-id"] for cpu in cpus}), 3)
        guest.qmp.execute("quit")
        self.assertEqual(guest.qmp.event("SHUTDOWN")["data"]["reason"], "host-qmp-quit")
        self.assertEqual(guest.wait(30), 0)

    def test_a_paused_machine_can_be_reset_and_ended(self):
        guest = self.vmm("idle", args=["--paused"], qmp=True)
        self.assertEqual(guest.qmp.execute("query-status")["status"], "prelaunch")
        guest.qmp.execute("system_reset")
        guest.qmp.event("RESET")
        guest.qmp.execute("cont")
        guest.qmp.execute("stop")
        guest.qmp.execute("system_reset")
        self.assertEqual(guest.qmp.execute("query-status")["status"], "paused")
        guest.qmp.execute("quit")
        self.assertEqual(guest.wait(30), 0)

    def test_resets_under_load(self):
        guest = self.vmm("again", args=["--cpus", "2"], qmp=True)
        for _ in range(20):
            guest.qmp.execute("system_reset")
        guest.qmp.execute("quit")
        self.assertEqual(guest.wait(30), 0)

    def test_the_power_button_reaches_the_guest(self):
        # Enable the button (PM1 enable, bit 8); the SCI rises; power off.
        guest = self.vmm("out 0x602 2 0x100", "wait-irq 9 1", "in 0x600 2 0x100", POWEROFF, qmp=True)
        guest.qmp.execute("system_powerdown")
        guest.qmp.event("POWERDOWN")
        self.assertEqual(guest.wait(30), 0)

    def test_signals_end_it_in_order(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            guest = self.vmm("idle", qmp=True)
            guest.process.send_signal(number)
            self.assertEqual(guest.qmp.event("SHUTDOWN")["data"]["reason"], "host-signal")
            self.assertEqual(guest.wait(30), 128 + number)
            self.assertFalse(guest.qmp_path.exists())

    def test_query_block_and_balloon(self):
        disk = pathlib.Path(self.folder.name, "disk.img")
        disk.write_bytes(bytes(1 << 20))
        guest = self.vmm("idle", args=["--disk", f"path={disk}"], qmp=True)
        block = guest.qmp.execute("query-block")[0]
        self.assertEqual(block["inserted"]["image"]["virtual-size"], 1 << 20)
        self.assertEqual(block["inserted"]["file"], str(disk))
        self.assertEqual(guest.qmp.raw("query-balloon")["error"]["class"], "DeviceNotActive")

    def test_query_chardev_says_where_the_terminals_are(self):
        guest = self.vmm("idle", args=["--serial", "pty", "--console", "pty"], qmp=True)
        chars = guest.qmp.execute("query-chardev")
        self.assertEqual([char["label"] for char in chars], ["serial0", "console0"])
        for char in chars:
            kind, path = char["filename"].split(":")
            self.assertEqual(kind, "pty")
            self.assertTrue(pathlib.Path(path).is_char_device(), path)

    def test_what_is_in_use_is_refused(self):
        disk = pathlib.Path(self.folder.name, "disk.img")
        disk.write_bytes(bytes(1 << 20))
        first = self.vmm("idle", args=["--disk", f"path={disk}"], qmp=True)
        status, text = self.status("idle", args=["--disk", f"path={disk}"])
        self.assertEqual(status, 2, text)
        self.assertIn(str(disk), text)
        status, text = self.status("idle", args=["--qmp", str(first.qmp_path)])
        self.assertEqual(status, 2, text)
        self.assertIn("in use", text)
        Qmp(first.qmp_path).close()

    def test_every_device_comes_and_goes(self):
        disks = [pathlib.Path(self.folder.name, f"disk{i}.img") for i in range(2)]
        for disk in disks:
            disk.write_bytes(bytes(1 << 20))
        socket = pathlib.Path(self.folder.name, "console")
        status, text = self.status(POWEROFF, args=[
            "--disk", f"path={disks[0]},iothread=on,serial=abc", "--disk", f"path={disks[1]},readonly=on,cache=none",
            "--net", "null", "--net", "null,iothread=on", "--console", f"unix:{socket}"])
        self.assertEqual(status, 0, text)


def multiboot(code):
    """A multiboot 1 image of a few bytes of 32-bit code, loaded at 1 MiB."""
    base, flags = 0x100000, 1 << 16  # the addresses below count
    magic = 0x1BADB002
    end = base + 32 + len(code)
    return struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, end, end, base + 32) + code


OUT_EXIT_10 = bytes.fromhex("b010 e6f4")  # mov al, 0x10; out 0xf4, al: status 0x21


class Software(unittest.TestCase):
    """A few instructions on the software CPU, with and without its translator."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vireo-vmm-")
        self.addCleanup(self.folder.cleanup)

    def run_code(self, code, *args, accel="soft"):
        image = pathlib.Path(self.folder.name, "image")
        image.write_bytes(multiboot(code))
        guest = Guest("--kernel", image, "--accel", accel, "--memory", "64M", "--debug-exit", "0xf4", *args)
        self.addCleanup(guest.end)
        return guest.wait(30), guest.text()

    def test_code_runs(self):
        for accel in ("soft", "soft,engine=interpreter"):
            status, text = self.run_code(OUT_EXIT_10, accel=accel)
            self.assertEqual(status, 0x21, text)

    def test_nothing_runs_after_a_reset(self):
        # mov dx, 0xcf9; mov al, 6; out dx, al
        status, text = self.run_code(bytes.fromhex("66baf90c b006 ee") + OUT_EXIT_10, "--no-reboot")
        self.assertEqual(status, 0, text)

    def test_a_triple_fault_is_a_reset(self):
        # lidt of nothing; ud2
        status, text = self.run_code(bytes.fromhex("0f011d 00000000 0f0b") + OUT_EXIT_10, "--no-reboot")
        self.assertEqual(status, 0, text)

    def test_auto_runs_it_whatever_the_host_has(self):
        status, text = self.run_code(OUT_EXIT_10, accel="auto")
        self.assertEqual(status, 0x21, text)
        fast = subprocess.run([VMM, "--check-accel"], stderr=subprocess.DEVNULL, check=False).returncode == 0
        self.assertEqual("the software CPU runs this machine" in text, not fast, text)

    def test_vhost_is_refused(self):
        status, text = self.run_code(OUT_EXIT_10, "--vsock", "cid=7")
        self.assertEqual(status, 2, text)
        self.assertIn("--vsock: vhost writes guest memory where accelerator 'soft' cannot see it", text)


if __name__ == "__main__":
    if not VMM.exists():
        raise Failure(f"{VMM} is not built")
    unittest.main(verbosity=2)

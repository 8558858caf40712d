#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `vireo` as people start it: usage: test_vireo.py PATH-OF-VIREO

A copy of it runs beside a vireo-vmm that is a few lines of shell, on pipes and on a pseudo-terminal.
"""

import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import unittest

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
TIMEOUT = 60


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="vireo-cli-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.vireo = self.dir / "vireo"
        shutil.copy(PROGRAM, self.vireo)

    def fake_vmm(self, body, name="vireo-vmm"):
        path = self.dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(0o755)
        return path

    def run_vireo(self, *args, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([str(self.vireo), *args], capture_output=True, text=True, timeout=TIMEOUT, check=False,
                              **kwargs)


class Words(Case):
    """What it says, and with which status."""

    def refused(self, part, *args):
        done = self.run_vireo(*args)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(part, done.stderr)
        self.assertEqual(done.stdout, "")

    def test_unknown_verbs_name_the_nearest(self):
        self.refused("verb 'rn' is not known: did you mean 'vireo run'?", "rn")
        self.refused("did you mean 'vireo check-host'?", "chek-host")
        self.refused("see 'vireo help'", "zzzzzzzzzzzz")
        self.refused("see 'vireo help'", "help", "zzzzzzzzzzzz")
        self.refused("Usage: vireo VERB")

    def test_unwanted_arguments_are_refused(self):
        self.refused("takes no arguments", "version", "x")
        self.refused("takes --json or nothing", "check-host", "--jsn")

    def test_bad_machines_are_refused_before_anything_starts(self):
        self.fake_vmm(f"touch {self.dir}/started\n")
        self.refused("there is no kernel to boot", "run")
        self.refused("did you mean '--kernel'?", "run", "--kernal", "x")
        self.refused("--cpus: count: 256 is out of range", "run", "--kernel", "x", "--cpus", "256")
        self.assertFalse((self.dir / "started").exists())

    def test_help_and_version(self):
        for args in (["help"], ["--help"], ["-h"]):
            done = self.run_vireo(*args)
            self.assertEqual(done.returncode, 0)
            for verb in ("run", "image", "check-host", "help", "version"):
                self.assertIn(f"  vireo {verb} ", done.stdout)
        for args in (["version"], ["--version"], ["run", "--version"]):
            done = self.run_vireo(*args)
            self.assertEqual(done.returncode, 0)
            self.assertRegex(done.stdout, r"^vireo \d+\.\d+\.\d+\n$")
        for args in (["run", "--help"], ["help", "run"]):
            done = self.run_vireo(*args)
            self.assertEqual(done.returncode, 0)
            self.assertIn("\n  --kernel FILE", done.stdout)

    def test_a_printed_machine_reads_back_the_same(self):
        args = ["--kernel", "k", "--disk", "path=a,,b", "--net", "user", "--cpus", "2"]
        first = self.run_vireo("run", *args, "--print-config")
        self.assertEqual(first.returncode, 0, first.stderr)
        config = self.dir / "vm.json"
        config.write_text(first.stdout)
        self.assertEqual(json.loads(first.stdout)["disks"][0]["path"], "a,b")
        second = self.run_vireo("run", "--config", str(config), "--print-config")
        self.assertEqual(second.stdout, first.stdout)

    def test_a_host_is_described(self):
        done = self.run_vireo("check-host", "--json")
        self.assertIn(done.returncode, (0, 1))
        names = [one["name"] for one in json.loads(done.stdout)]
        self.assertIn("kvm", names)
        text = self.run_vireo("check-host").stdout
        self.assertEqual([line.split()[0] for line in text.splitlines()], names)

    @unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "it is asked only where /dev/kvm can be opened")
    def test_what_vireo_vmm_says_of_speed_is_shown(self):
        self.fake_vmm("echo vireo-vmm: error: too slow >&2; exit 1\n")
        found = {one["name"]: one for one in json.loads(self.run_vireo("check-host", "--json").stdout)}
        self.assertEqual(found["kvm-speed"]["state"], "missing")
        self.assertEqual(found["kvm-speed"]["detail"], "too slow")
        self.assertEqual(found["accel"]["state"], "ok")
        self.assertEqual(found["accel"]["detail"], "auto takes soft, the software CPU: too slow")
        self.fake_vmm('test "$1" = --check-accel\n')
        found = {one["name"]: one for one in json.loads(self.run_vireo("check-host", "--json").stdout)}
        self.assertEqual(found["kvm-speed"]["state"], "ok")
        self.assertEqual(found["accel"]["detail"], "auto takes kvm")


class Start(Case):
    """How vireo-vmm is found and started."""

    def test_arguments_and_status_pass_through(self):
        self.fake_vmm('printf "%s|" "$0" "$@"; exit 42\n')
        done = self.run_vireo("run", "--kernel", "a b", "--disk", "c,,d", "--append", "")
        self.assertEqual(done.returncode, 42)
        self.assertEqual(done.stdout.split("|")[1:], ["--kernel", "a b", "--disk", "c,,d", "--append", "", ""])

    def test_it_becomes_vireo_vmm_without_a_terminal(self):
        self.fake_vmm("echo $$\n")
        with subprocess.Popen([str(self.vireo), "run", "--kernel", "k"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True) as process:
            self.assertEqual(int(process.stdout.read()), process.pid)

    def test_path_is_searched_last(self):
        self.fake_vmm("echo from-path\n", "bin/vireo-vmm")
        env = dict(os.environ, PATH=f"/nonexistent::{self.dir}/bin:/usr/bin:/bin")
        self.assertEqual(self.run_vireo("run", "--kernel", "k", env=env).stdout, "from-path\n")
        self.fake_vmm("echo from-beside\n")
        self.assertEqual(self.run_vireo("run", "--kernel", "k", env=env).stdout, "from-beside\n")

    def test_a_missing_vireo_vmm_is_named(self):
        done = self.run_vireo("run", "--kernel", "k", env={"PATH": "/nonexistent"})
        self.assertEqual(done.returncode, 1)
        self.assertIn("vireo-vmm is missing", done.stderr)


class Terminal(Case):
    """On a terminal: whatever ends the machine, the terminal is afterwards what it was."""

    def start(self, body):
        """Starts it on a new terminal; returns the process and both sides of the terminal."""
        self.fake_vmm(body)
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        process = subprocess.Popen([str(self.vireo), "run", "--kernel", "k"], stdin=slave, stdout=slave,
                                   stderr=subprocess.DEVNULL, preexec_fn=own_terminal)
        self.addCleanup(process.kill)
        return process, master, slave

    def read_line(self, master):
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(master, 1)
        return text.decode().strip()

    def check_restored(self, body, status, act=None):
        process, master, slave = self.start("stty raw -echo opost onlcr\n" + body)
        line = self.read_line(master)
        if act:  # it waits for that; otherwise it may have gone, and the terminal may be right already
            self.assertFalse(termios.tcgetattr(slave)[3] & termios.ECHO)
            act(process, int(line))
        self.assertEqual(process.wait(TIMEOUT), status)
        after = termios.tcgetattr(slave)
        self.assertTrue(after[3] & termios.ECHO)
        self.assertTrue(after[3] & termios.ICANON)
        self.assertTrue(after[3] & termios.ISIG)

    def test_after_kill_9(self):
        self.check_restored("echo $$; exec sleep 1000\n", 128 + 9, lambda _, vmm: os.kill(vmm, signal.SIGKILL))

    def test_after_a_plain_end(self):
        self.check_restored("echo $$; exit 3\n", 3)

    def test_signals_sent_to_it_reach_the_machine(self):
        for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with self.subTest(sig=sig):
                self.check_restored(f"sleep 1000 & trap 'kill $!; exit 7' {int(sig)}; echo $$; wait\n", 7,
                                    lambda process, _, sig=sig: process.send_signal(sig))

    def test_blocking_writes_are_restored(self):
        process, master, slave = self.start(
            "python3 -c 'import os; os.set_blocking(0, False); print(1, flush=True)'; kill -9 $$\n")
        self.read_line(master)
        self.assertEqual(process.wait(TIMEOUT), 137)
        self.assertTrue(os.get_blocking(slave))

    def test_the_machine_ends_with_its_parent(self):
        process, master, _ = self.start("echo $$; exec sleep 1000\n")
        vmm = int(self.read_line(master))
        process.kill()
        process.wait(TIMEOUT)
        # The orphan is nobody's child here: its end is seen through a descriptor that polls readable then.
        try:
            fd = os.pidfd_open(vmm)
        except ProcessLookupError:
            return
        self.assertTrue(select.select([fd], [], [], TIMEOUT)[0])
        os.close(fd)

    def test_a_machine_that_cannot_start_is_named(self):
        self.fake_vmm("")
        (self.dir / "vireo-vmm").write_text("#!/nonexistent/shell\n")
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)
        done = subprocess.run([str(self.vireo), "run", "--kernel", "k"], stdin=slave, capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot start", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

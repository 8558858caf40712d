#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real sessions of Debian's virsh with vireod: what people type, and what they are told. Machines have scripted processors.

usage: test_virsh.py [unittest options]; VIREO_BUILD names the build folder. Skipped (77) without virsh.
"""

import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from daemon import BUILD, PANIC, POLITE, POWEROFF, WAIT, Daemon, until  # noqa: E402

HELLO = [f"out 0x3f8 1 {ord(c)}" for c in "hello\n"]
# Waits for a byte on the serial line (line status, bit 0), and answers with it: enough of a guest for a console.
ECHO = ["out 0x3f9 1 0x01", "out 0x3fc 1 0x08", "wait-irq 4 1", "in 0x3f8 1 113", *HELLO, "idle"]


class Virsh(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.virsh = self.daemon.virsh

    def says(self, expected, *words, **how):
        self.assertEqual(self.virsh(*words, **how), expected, words)

    def fails(self, expected, *words, **how):
        self.assertIn(expected, self.daemon.fails(*words, **how))

    def test_who_asks_gets_answers_about_the_host(self):
        self.assertIn("Running hypervisor: QEMU 10.0.0", self.virsh("version"))
        self.assertRegex(self.virsh("nodeinfo"), r"CPU model: +x86_64\nCPU\(s\): +\d+\n")
        self.assertIn("<capabilities>", self.virsh("capabilities"))
        self.assertIn(f"<path>{BUILD}/vireo-vmm</path>", self.virsh("domcapabilities"))
        self.assertIn("invalid argument: this host runs x86_64", self.daemon.fails("domcapabilities", "--arch", "ppc64"))
        self.assertRegex(self.virsh("nodememstats"), r"total *: +\d+ KiB")
        self.assertRegex(self.virsh("nodecpumap"), r"CPUs present: +\d+")
        self.assertIn("idle:", self.virsh("nodecpustats"))
        self.says(os.uname().nodename, "hostname")
        self.says("Id   Name   State\n--------------------", "list", "--all")
        self.fails("this function is not supported by the connection driver: CONNECT_GET_SYSINFO", "sysinfo")

    def test_a_machine_s_life(self):
        identity = uuid.uuid4()
        file = self.daemon.xml("one", POLITE, uuid=identity)
        self.says(f"Domain 'one' defined from {file}", "define", file)
        self.says(" Id   Name   State\n-----------------------\n -    one    shut off".strip(), "list", "--all")
        self.says(str(identity), "domuuid", "one")
        self.says("one", "domname", identity)
        self.says("shut off (unknown)", "domstate", "one", "--reason")
        self.says("Domain 'one' started", "start", "one")
        self.says(" Id   Name   State\n----------------------\n 1    one    running".strip(), "list")
        self.says("running (booted)", "domstate", "one", "--reason")
        self.says("Domain 'one' suspended", "suspend", "one")
        self.says("paused (user)", "domstate", "one", "--reason")
        self.says("Domain 'one' resumed", "resume", "one")
        self.says("running (unpaused)", "domstate", "one", "--reason")
        self.fails("Requested operation is not valid: domain is already running", "resume", "one")
        self.says("Domain 'one' was reset", "reset", "one")
        self.says("Domain 'one' is being shutdown", "shutdown", "one")
        until(lambda: self.daemon.state("one") == "shut off", "the guest powers off")
        self.says("shut off (shutdown)", "domstate", "one", "--reason")
        self.says("Domain 'one' started", "start", "one", "--paused")
        self.says("paused (user)", "domstate", "one", "--reason")
        self.says("Domain 'one' destroyed", "destroy", "one")
        self.says("shut off (destroyed)", "domstate", "one", "--reason")
        self.fails("Requested operation is not valid: domain is not running", "destroy", "one")
        self.fails("Requested operation is not valid: domain is not running", "shutdown", "one")
        self.says("Domain 'one' has been undefined", "undefine", "one")
        self.fails("error: failed to get domain 'one'", "dominfo", "one")
        self.assertEqual(self.daemon.pids(), [])
        self.assertEqual(list((self.daemon.run / "machines").iterdir()), [])

    def test_facts_about_a_machine(self):
        identity = uuid.uuid4()
        disk = self.daemon.root / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        self.daemon.define("two", uuid=identity, inside=f"""<vcpu>2</vcpu><title>a title</title><devices>
          <console type='pty'/><disk type='file'><source file='{disk}'/><target dev='vda'/></disk></devices>""")
        self.virsh("start", "two")
        facts = self.virsh("dominfo", "two")
        self.assertRegex(facts, rf"^Id: +1\nName: +two\nUUID: +{identity}\nOS Type: +hvm\nState: +running\nCPU\(s\): +2\n")
        self.assertRegex(facts, r"Persistent: +yes\nAutostart: +disable\nManaged save: +no\nSecurity model: none")
        self.assertRegex(self.virsh("vcpuinfo", "two"), r"VCPU: +1\nCPU: +\d+\nState: +running")
        self.says("a title", "desc", "--title", "two")
        self.assertRegex(self.virsh("domblklist", "two"), r"vda +" + re.escape(str(disk)))
        self.assertRegex(self.virsh("domblkinfo", "two", "vda"), r"Capacity: +1048576")
        self.assertRegex(self.virsh("ttyconsole", "two"), r"^/dev/pts/\d+$")
        self.assertRegex(self.virsh("dommemstat", "two"), r"actual 32768\nrss \d+")
        self.says("maximum      config         2\nmaximum      live           2\ncurrent      config         2\n"
                  "current      live           2", "vcpucount", "two")
        stats = self.virsh("domstats", "two")
        for line in ("state.state=1", "vcpu.current=2", "block.0.name=vda", f"block.0.path={disk}", "balloon.maximum=32768"):
            self.assertIn(line, stats)
        self.says("ok", "domcontrol", "two")
        live, inactive = self.virsh("dumpxml", "two"), self.virsh("dumpxml", "two", "--inactive")
        self.assertIn("<domain type='null' id='1'>", live)
        self.assertIn("<alias name='virtio-disk0'/>", live)
        self.assertIn("<domain type='null'>", inactive)
        self.assertNotIn("alias", inactive)
        self.assertIn(f"<emulator>{BUILD}/vireo-vmm</emulator>", live)
        # The program that is named is the one that runs.
        program = os.readlink(f"/proc/{self.daemon.pids()[0]}/exe")
        self.assertEqual(program, str((BUILD / "vireo-vmm").resolve()))

    def test_a_definition_survives_and_is_a_file(self):
        identity = uuid.uuid4()
        self.daemon.define("three", uuid=identity)
        self.says("Domain 'three' marked as autostarted", "autostart", "three")
        self.says("Domain description updated successfully", "desc", "three", "some words")
        self.says("Metadata modified", "metadata", "three", "--uri", "urn:x", "--key", "x", "--set", "<y z='1'/>")
        self.says("<x:y xmlns:x='urn:x' z='1'/>", "metadata", "three", "--uri", "urn:x")
        self.fails("metadata not found", "metadata", "three", "--uri", "urn:none")
        text = self.virsh("dumpxml", "three")
        self.assertEqual((self.daemon.root / "conf/machines/three.xml").read_text().strip(), text)
        self.daemon.kill()
        self.daemon.start()
        until(lambda: self.daemon.state("three") == "running", "autostart")
        self.says(text, "dumpxml", "three", "--inactive")
        self.assertRegex(self.virsh("dominfo", "three"), r"Autostart: +enable")
        self.says("Domain 'three' unmarked as autostarted", "autostart", "--disable", "three")
        self.fails("cannot rename active domain", "domrename", "three", "four")
        self.virsh("destroy", "three")
        self.says("Domain successfully renamed", "domrename", "three", "four")
        self.assertEqual(os.listdir(self.daemon.root / "conf/machines"), ["four.xml"])
        self.fails("already exists with uuid", "define", self.daemon.xml("four"))
        self.fails(f"domain 'four' is already defined with uuid {identity}", "define",
                   self.daemon.xml("five", uuid=identity))
        self.assertEqual(self.virsh("list", "--all", "--name"), "four")

    def test_a_transient_machine_is_forgotten_when_it_ends(self):
        file = self.daemon.xml("brief", POLITE)
        self.says(f"Domain 'brief' created from {file}", "create", file)
        self.assertRegex(self.virsh("dominfo", "brief"), r"Persistent: +no")
        self.assertEqual(self.virsh("list", "--name", "--transient"), "brief")
        self.fails("cannot undefine transient domain", "undefine", "brief")
        self.fails("cannot set autostart for transient domain", "autostart", "brief")
        self.virsh("shutdown", "brief")
        until(lambda: self.virsh("list", "--all", "--name") == "", "it is forgotten")
        # Defined while it runs, it stays.
        self.virsh("create", file)
        self.virsh("define", file)
        self.virsh("destroy", "brief")
        self.assertEqual(self.daemon.state("brief"), "shut off")
        # Undefined while it runs, it goes when it ends.
        self.virsh("start", "brief")
        self.says("Domain 'brief' has been undefined", "undefine", "brief")
        self.assertEqual(self.daemon.state("brief"), "running")
        self.virsh("destroy", "brief")
        self.assertEqual(self.virsh("list", "--all", "--name"), "")

    def test_a_killed_daemon_finds_every_machine_again(self):
        self.daemon.define("stays")
        self.daemon.define("paused")
        self.daemon.define("off")
        self.daemon.define("ends", POLITE)
        self.virsh("start", "stays")
        self.virsh("start", "ends")
        self.virsh("create", self.daemon.xml("transient"))
        self.virsh("start", "paused", "--paused")
        before = {name: self.virsh("dumpxml", name) for name in ("stays", "transient", "paused")}
        pids = sorted(self.daemon.pids())
        self.daemon.kill()
        # One ends while nobody looks.
        gone = next(pid for pid in pids if b"ends" in self.config_of(pid))
        os.kill(gone, signal.SIGKILL)
        until(lambda: gone not in self.daemon.pids(), "it is gone")
        self.daemon.start()
        self.assertEqual(sorted([*self.daemon.pids(), gone]), pids)
        until(lambda: self.daemon.state("paused") == "paused", "its state is known again")
        for name, state in {"stays": "running", "transient": "running", "off": "shut off", "ends": "shut off"}.items():
            self.assertEqual(self.daemon.state(name), state, name)
        for name, text in before.items():
            until(lambda name=name, text=text: self.virsh("dumpxml", name) == text, f"{name} is as it was")
        # They are ruled as before, and a stopped daemon leaves them, too.
        self.virsh("suspend", "stays")
        self.assertEqual(self.daemon.stop(), 0)
        self.daemon.start()
        until(lambda: self.daemon.state("stays") == "paused", "its state is known again")
        self.virsh("resume", "stays")
        self.virsh("destroy", "transient")
        self.virsh("destroy", "stays")
        self.assertEqual(self.virsh("list", "--all", "--name", "--transient"), "")
        self.says("shut off (destroyed)", "domstate", "stays", "--reason")

    def config_of(self, pid):
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return pathlib.Path(words[2].decode()).read_bytes()

    def test_what_happens_at_the_end_is_what_the_definition_says(self):
        self.daemon.define("again", POWEROFF, inside="<on_poweroff>restart</on_poweroff>")
        self.daemon.define("crash", PANIC, inside="<devices><panic model='isa'/></devices>")
        self.virsh("start", "crash", check=False)
        until(lambda: self.virsh("domstate", "crash", "--reason") == "shut off (crashed)", "the panic is told")
        self.virsh("start", "again", check=False)
        first = until(lambda: [pid for pid in self.daemon.pids()], "it runs")
        until(lambda: self.daemon.pids() and self.daemon.pids() != first, "another has taken its place")
        until(lambda: "destroyed" in self.virsh("destroy", "again", check=False), "it can be destroyed")

    def test_reboot_is_a_shutdown_and_a_start(self):
        self.daemon.define("boots", POLITE)
        self.virsh("start", "boots")
        first = self.daemon.pids()
        self.says("Domain 'boots' is being rebooted", "reboot", "boots")
        until(lambda: self.daemon.pids() not in ([], first), "it has been started again")
        until(lambda: self.daemon.state("boots") == "running", "it runs")
        self.says("1", "domid", "boots")

    def test_what_fails_to_start_says_why_and_leaves_nothing(self):
        self.daemon.define("bad", ["frobnicate"])
        text = self.daemon.fails("start", "bad")
        self.assertIn("error: Failed to start domain 'bad'", text)
        self.assertIn("internal error: domain 'bad' did not start:", text)
        self.assertIn("frobnicate", text)
        self.assertEqual(self.daemon.state("bad"), "shut off")
        self.assertEqual(list((self.daemon.run / "machines").iterdir()), [])
        self.fails("frobnicate", "create", self.daemon.xml("worse", ["frobnicate"]))
        self.assertEqual(self.virsh("list", "--all", "--name"), "bad")
        self.fails("unsupported configuration: element <graphics> of <devices>: Vireo's machines have no display",
                   "define", self.daemon.xml("shown", inside="<devices><graphics type='vnc'/></devices>"))
        self.fails("XML error: line 1:", "define", self.broken())

    def broken(self):
        file = self.daemon.root / "broken.xml"
        file.write_text("<domain")
        return file

    def test_a_killed_machine_is_noticed(self):
        self.daemon.define("victim")
        self.virsh("start", "victim")
        os.kill(self.daemon.pids()[0], signal.SIGKILL)
        until(lambda: self.virsh("domstate", "victim", "--reason") == "shut off (failed)", "its end is told")
        self.virsh("start", "victim")
        self.assertEqual(self.daemon.state("victim"), "running")

    def test_who_may_only_read_changes_nothing(self):
        self.daemon.define("safe")
        self.assertIn("safe", self.virsh("list", "--all", readonly=True))
        # virsh itself knows better with -r; on the read-only socket without it the daemon says so (test_wire tries everything).
        self.fails("operation forbidden: read only access prevents", "start", "safe", readonly=True)
        self.fails("operation forbidden: read only access prevents", "undefine", "safe", readonly=True)
        self.assertEqual(self.daemon.state("safe"), "shut off")

    def console(self, *words):
        """A virsh console on a terminal of its own: (process, terminal)."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(["virsh", "-c", self.daemon.uri(), "console", *words], stdin=theirs, stdout=theirs,
                                   stderr=theirs, start_new_session=True, env=dict(os.environ, LC_ALL="C"))
        os.close(theirs)
        self.addCleanup(os.close, ours)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, ours

    def expect(self, terminal, wanted):
        os.set_blocking(terminal, False)
        seen = b""

        def more():
            nonlocal seen
            try:
                seen += os.read(terminal, 4096)
            except (BlockingIOError, OSError):
                pass
            return wanted in seen
        try:
            until(more, "")
        except Exception:
            raise AssertionError(f"no {wanted} in {seen}") from None

    def test_the_console(self):
        self.daemon.define("talks", ECHO)
        self.virsh("start", "talks")
        process, terminal = self.console("talks")
        self.expect(terminal, b"Escape character is ^]")
        second, other = self.console("talks")
        self.expect(other, b"operation failed: Active console session exists for this domain")
        self.assertEqual(second.wait(WAIT), 1)
        os.write(terminal, b"q")
        self.expect(terminal, b"hello")
        os.write(terminal, b"\x1d")
        self.assertEqual(process.wait(WAIT), 0)
        # It is free again, and ends with its machine.
        process, terminal = self.console("talks")
        self.expect(terminal, b"Escape character is ^]")
        self.virsh("destroy", "talks")
        process.wait(WAIT)

    def test_qmp_passes_through(self):
        self.daemon.define("q")
        self.fails("domain is not running", "qemu-monitor-command", "q", '{"execute":"query-status"}')
        self.virsh("start", "q")
        answer = json.loads(self.virsh("qemu-monitor-command", "q", '{"execute":"query-name"}'))
        self.assertEqual(answer["return"], {"name": "q"})
        answer = json.loads(self.virsh("qemu-monitor-command", "q", '{"execute":"query-balloon"}'))
        self.assertIn("balloon", answer["error"]["desc"])
        self.fails("understand QMP only", "qemu-monitor-command", "q", "--hmp", "info status")
        self.fails("no member 'execute' that is a string", "qemu-monitor-command", "q", '{"execute":3}')
        # What a client does behind the daemon's back is noticed.
        self.virsh("qemu-monitor-command", "q", '{"execute":"stop"}')
        until(lambda: self.virsh("domstate", "q", "--reason") == "paused (user)", "the state follows")
        self.virsh("qemu-monitor-command", "q", '{"execute":"quit"}')
        until(lambda: self.daemon.state("q") == "shut off", "the end is noticed")

    def test_what_was_asked_is_recorded(self):
        file = self.daemon.root / "state/audit.jsonl"
        self.daemon.define("seen")
        self.virsh("start", "seen")
        self.virsh("dominfo", "seen")
        self.virsh("destroy", "seen")
        self.daemon.fails("define", self.daemon.xml("shown", inside="<devices><graphics type='vnc'/></devices>"))
        records = [json.loads(line) for line in file.read_text().splitlines()]
        self.assertEqual([(r["call"], r.get("on"), r["result"], r["program"], r["uid"]) for r in records], [
            ("DOMAIN_DEFINE_XML", "seen", "done", "virsh", os.getuid()),
            ("DOMAIN_CREATE", "seen", "done", "virsh", os.getuid()),
            ("DOMAIN_DESTROY", "seen", "done", "virsh", os.getuid()),
            ("DOMAIN_DEFINE_XML", None, "failed", "virsh", os.getuid())])
        self.assertIn("element <graphics>", records[-1]["error"])
        # Another daemon goes on with the chain.
        self.daemon.kill()
        self.daemon.start()
        self.virsh("undefine", "seen")
        vireo = [str(BUILD / "vireo"), "audit", "verify", str(file)]
        done = subprocess.run(vireo, stdout=subprocess.PIPE, text=True, check=True)
        self.assertIn("5 records, none altered or missing", done.stdout)
        file.write_text(file.read_text().replace("DOMAIN_DESTROY", "DOMAIN_SUSPEND"))
        done = subprocess.run(vireo, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("line 3 was altered", done.stderr)

    def test_edit(self):
        self.daemon.define("edited")
        editor = self.daemon.root / "editor"
        editor.write_text("#!/bin/sh\nsed -i 's/32768/65536/' \"$1\"\n")
        editor.chmod(0o755)
        os.environ["EDITOR"] = str(editor)
        self.addCleanup(os.environ.pop, "EDITOR")
        self.says("Domain 'edited' XML configuration edited.", "edit", "edited")
        self.assertRegex(self.virsh("dominfo", "edited"), r"Max memory: +65536 KiB")

    def test_many_machines(self):
        for i in range(20):
            self.daemon.define(f"m{i}")
        commands = "; ".join(f"start m{i}" for i in range(20))
        self.virsh(commands)
        self.assertEqual(len(self.virsh("list", "--name").split()), 20)
        self.assertEqual(self.virsh("domstats", "--state").count("state.state=1"), 20)
        self.virsh("; ".join(f"destroy m{i}" for i in range(20)))
        self.assertEqual(self.daemon.pids(), [])


if __name__ == "__main__":
    if not shutil.which("virsh"):
        print("skipped: virsh is missing (package libvirt-clients)")
        sys.exit(77)
    unittest.main()

#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""virt-install, virt-clone and virt-xml of Debian make, copy and change a machine. It boots a "kernel": a script for the processor.

usage: test_virt_install.py [unittest options]; VIREO_BUILD names the build folder. Skipped (77) without virt-install.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from daemon import WAIT, Daemon, Failure, until  # noqa: E402

# What Vireo's machines do not have, and virt-install adds unasked.
WITHOUT = ["--graphics", "none", "--controller", "usb,model=none", "--channel", "none"]


class VirtInstall(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.virsh = self.daemon.virsh
        self.script = self.daemon.root / "script"
        self.script.write_text("".join(f"out 0x3f8 1 {ord(c)}\n" for c in "login: ") + "idle\n")

    def run_tool(self, tool, *words, check=True):
        env = dict(os.environ, LC_ALL="C", HOME=str(self.daemon.root), XDG_CACHE_HOME=str(self.daemon.root / "cache"))
        done = subprocess.run([tool, "--connect", self.daemon.uri(), *map(str, words)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=6 * WAIT, env=env)
        if check and done.returncode != 0:
            raise Failure(f"{tool} {words}: {done.stdout}")
        return done.stdout

    def install(self, name, *words, **how):
        return self.run_tool("virt-install", "--name", name, "--memory", "64", "--vcpus", "2", "--virt-type", "null",
                             "--boot", f"kernel={self.script}", "--import", "--osinfo", "linux2022", "--noautoconsole", *words,
                             **how)

    def test_a_machine_with_a_new_disk_in_a_new_pool(self):
        images = self.daemon.root / "images"
        images.mkdir()
        text = self.install("made", *WITHOUT, "--network", "none", "--disk", f"path={images}/made.img,size=0.01,format=raw")
        self.assertIn("Domain creation completed.", text)
        self.assertEqual(self.virsh("domstate", "made"), "running")
        self.assertIn("images", self.virsh("pool-list", "--name"))
        self.assertGreater((images / "made.img").stat().st_size, 10_000_000)
        self.assertRegex(self.virsh("domblklist", "made"), rf"vda +{images}/made.img")
        self.assertRegex(self.virsh("dominfo", "made"), r"Persistent: +yes")
        self.assertIn("libosinfo:os id='http://libosinfo.org/linux/2022'", self.virsh("dumpxml", "made"))

    def test_without_a_disk_and_back_again(self):
        self.install("plain", *WITHOUT, "--network", "none", "--disk", "none", "--rng", "/dev/urandom")
        self.assertEqual(self.virsh("domstate", "plain"), "running")
        self.virsh("destroy", "plain")
        self.run_tool("virt-xml", "plain", "--edit", "--memory", "128")
        self.assertRegex(self.virsh("dominfo", "plain"), r"Max memory: +131072 KiB")
        self.run_tool("virt-clone", "--original", "plain", "--name", "copy", "--auto-clone")
        self.virsh("start", "copy")
        self.assertEqual(sorted(self.virsh("list", "--all", "--name").split()), ["copy", "plain"])

    def test_what_there_is_not_is_named(self):
        text = self.install("shown", "--network", "none", "--disk", "none", "--graphics", "vnc", check=False)
        self.assertIn("unsupported configuration: element <", text)
        self.assertEqual(self.virsh("list", "--all", "--name"), "")


if __name__ == "__main__":
    if not shutil.which("virt-install"):
        print("skipped: virt-install is missing (package virtinst)")
        sys.exit(77)
    unittest.main()

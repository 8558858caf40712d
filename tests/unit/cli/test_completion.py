#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in the shells themselves: usage: test_completion.py VIREO.BASH _VIREO

bash is asked through the function that it would call; zsh on a pseudo-terminal, as a person would. Exit status 77 when neither
shell (with bash-completion) is there.
"""

import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

BASH_FILE, ZSH_FILE = (pathlib.Path(arg).resolve() for arg in sys.argv[1:3])
LOADER = pathlib.Path("/usr/share/bash-completion/bash_completion")
TIMEOUT = 60

ASK = """
source "$1"; source "$2"
COMP_LINE=$3; COMP_POINT=${#3}; COMP_WORDS=("${@:4}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }
_vireo
printf '%s\\n' "${COMPREPLY[@]}"
"""


def readline_words(line):
    """The words as readline splits them: at blanks, and around = and : which are words of their own."""
    words = []
    for chunk in line.split(" "):
        words += [word for word in re.split(r"([=:]+)", chunk) if word] or [""]
    if line.endswith(("=", ":")):
        words.append("")
    return words


@unittest.skipUnless(shutil.which("bash") and LOADER.exists(), "bash-completion is missing")
class Bash(unittest.TestCase):
    def complete(self, line):
        done = subprocess.run(["bash", "--norc", "-c", ASK, "bash", str(LOADER), str(BASH_FILE), line, *readline_words(line)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=TIMEOUT, check=True, cwd=self.dir)
        self.assertEqual(done.stderr, "")
        return [word for word in done.stdout.splitlines() if word]

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="vireo-complete-")
        self.addCleanup(shutil.rmtree, self.dir)
        (pathlib.Path(self.dir) / "disk.img").touch()

    def test_verbs(self):
        self.assertEqual(self.complete("vireo "), ["run", "image", "check-host", "audit", "help", "version"])
        self.assertEqual(self.complete("vireo c"), ["check-host"])
        self.assertEqual(self.complete("vireo help v"), ["version"])
        self.assertEqual(self.complete("vireo check-host "), ["--json"])
        self.assertEqual(self.complete("vireo image c"), ["create", "check", "convert", "compare", "commit"])
        self.assertEqual(self.complete("vireo image info -f q"), ["qcow2"])
        self.assertEqual(self.complete("vireo version "), [])

    def test_options(self):
        self.assertEqual(self.complete("vireo run --ker"), ["--kernel"])
        self.assertEqual(self.complete("vireo-vmm --no"), ["--no-reboot"])
        self.assertEqual(self.complete("vireo run --paused --vs"), ["--vsock"])
        self.assertIn("--disk", self.complete("vireo run "))

    def test_values(self):
        self.assertEqual(self.complete("vireo run --accel k"), ["kvm", "kind="])
        self.assertEqual(self.complete("vireo run --rng "), ["on", "off"])
        self.assertEqual(self.complete("vireo run --rng=o"), ["on", "off"])
        self.assertEqual(self.complete("vireo run --kernel d"), ["disk.img"])
        self.assertEqual(self.complete("vireo run --serial u"), ["unix:"])

    def test_keys(self):
        self.assertEqual(self.complete("vireo run --disk path=disk.img,rea"), ["disk.img,readonly="])
        self.assertEqual(self.complete("vireo run --disk path=d"), ["disk.img"])
        self.assertEqual(self.complete("vireo run --disk disk.img,cache=w"), ["writeback", "writethrough"])
        self.assertEqual(self.complete("vireo run --net u"), ["user"])
        self.assertIn("user,hostfwd=", self.complete("vireo run --net user,"))
        self.assertEqual(self.complete("vireo run --memory 1G,hugepage"), ["1G,hugepages=", "1G,hugepage-size="])


@unittest.skipUnless(shutil.which("zsh"), "zsh is missing")
class Zsh(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="vireo-complete-")
        self.addCleanup(shutil.rmtree, self.dir)
        shutil.copy(ZSH_FILE, pathlib.Path(self.dir) / "_vireo")
        (pathlib.Path(self.dir) / "disk.img").touch()
        pid, self.master = pty.fork()
        if pid == 0:
            os.chdir(self.dir)
            os.execvpe("zsh", ["zsh", "-f", "-i"], dict(os.environ, TERM="dumb", PS1="", ZDOTDIR=self.dir))
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.close, self.master)
        self.send("unsetopt zle_bracketed_paste 2>/dev/null; stty -echo; PS1='R''DY '; fpath=($PWD $fpath); "
                  "autoload -U compinit && compinit -u -D; LISTMAX=1000; "
                  "show() { print -r -- \"<$BUFFER>\"; BUFFER=; }; zle -N show; bindkey '^G' show\n")
        self.wait_for("RDY ")

    def send(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, part):
        text = ""
        end = time.monotonic() + TIMEOUT
        while part not in text:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                self.fail(f"no {part!r} in {text!r}")
            text += os.read(self.master, 4096).decode(errors="replace")
        return text

    def check(self, line, completed):
        """Types the line and a tab; the widget on ^G then shows what stands there."""
        self.send(line + "\t\x07")
        text = self.wait_for(">")
        self.assertEqual(text[text.rindex("<") + 1:text.rindex(">")].rstrip(), completed)

    def test_words(self):
        self.check("vireo ch", "vireo check-host")
        self.check("vireo run --ker", "vireo run --kernel")
        self.check("vireo run --accel kv", "vireo run --accel kvm")
        self.check("vireo run --disk path=di", "vireo run --disk path=disk.img")
        self.check("vireo run --disk disk.img,reado", "vireo run --disk disk.img,readonly=")
        self.check("vireo run --disk disk.img,cache=writet", "vireo run --disk disk.img,cache=writethrough")
        self.check("vireo run --balloon=of", "vireo run --balloon=off")
        self.check("vireo-vmm --no-re", "vireo-vmm --no-reboot")


if __name__ == "__main__":
    if not shutil.which("zsh") and not (shutil.which("bash") and LOADER.exists()):
        print("neither zsh nor bash-completion is installed")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])

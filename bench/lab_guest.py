# SPDX-License-Identifier: GPL-2.0-or-later
"""The same Linux guest on Vireo and on QEMU 7.2, for the benchmarks that need real KVM: the command lines of both, and
the way into the lab.

Unless a benchmark decides otherwise the lab host's clock counts its instructions (tests/lab/run --counted): a figure is
then what a path costs in instructions of VMM, kernel and guest together, on one processor, and does not depend on this
machine's other work.
With --real, the host has two processors and runs against this machine's clock.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/guest"))

import initrd  # noqa: E402
import measure  # noqa: E402
from harness import Failure, Guest, artefact  # noqa: E402,F401 # what the benchmarks use with it

STAGE = pathlib.Path("/dev/shm")

# Both as QEMU's documentation on microvm advises, with the serial line that all contenders have as their console.
MICROVM = "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off"
Q35 = "q35"


def qemu(machine, memory, cpus, extra=(), kernel=None, initrd=None, append=""):
    """No defaults, no display, KVM, the host's CPU."""
    return ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", str(memory), "-smp", str(cpus), "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-M", machine, "-kernel", str(kernel),
            "-initrd", str(initrd), "-append", append, *extra]


def vireo(memory, cpus, extra=(), kernel=None, initrd=None, append=""):
    return [str(vmm()), "--accel", "kvm", "--kernel", str(kernel), "--initrd", str(initrd), "--append", append,
            "--memory", f"{memory}M", "--cpus", str(cpus), "--no-reboot", *extra]


def _staged(source):
    """A copy in this host's memory. In the lab, files come over 9p, and a wait for that is no part of any figure."""
    copy = STAGE / f"vireo-bench-{source.parent.name}-{source.name}"
    if not copy.exists():
        subprocess.run(["cp", "--sparse=always", str(source), str(copy)], check=True)
    return copy


def staged(name):
    """A guest artefact as a file in memory."""
    return _staged(pathlib.Path(artefact(name)))


def vmm():
    return _staged(measure.VMM) if "VIREO_LAB" in os.environ else measure.VMM


def _with_libraries(programs):
    """{where the loader looks: file} for programs of this host and the libraries that they load."""
    files = {}
    for program in programs:
        path = shutil.which(program)
        files[f"tools/{program}"] = path
        for line in subprocess.run(["ldd", path], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
            library = re.search(r"(/\S+) \(", line)
            if library:
                folder = "lib64" if "ld-linux" in library[1] else "lib/x86_64-linux-gnu"
                files[f"{folder}/{pathlib.Path(library[1]).name}"] = library[1]
    return files


def _tools():
    """The guest tests' initrd, and with it this host's fio, iperf3 and ping under /tools: a guest without a root disk."""
    whole = STAGE / "vireo-bench-tools"
    if not whole.exists():
        folders = ["tools", "lib", "lib64", "lib/x86_64-linux-gnu"]
        entries = [(name, 0o040755, b"") for name in folders]
        entries += [(name, 0o100755, pathlib.Path(path).read_bytes())
                    for name, path in _with_libraries(("fio", "iperf3", "ping")).items()]
        whole.write_bytes(pathlib.Path(artefact("initrd-cloud")).read_bytes() + initrd.cpio(entries))
    return whole


def shell_boot():
    """What boots the guest for shell_guest()."""
    return {"kernel": staged("kernel-cloud"), "initrd": _tools(), "append": "console=ttyS0 quiet panic=-1"}


def shell_guest(command):
    """Starts a guest and waits until commands can be given."""
    guest = Guest(program=command)
    try:
        guest.shell(timeout=300)
        guest.command("ip link set lo up")
    except BaseException:
        guest.end()
        raise
    return guest


def arguments(description, rounds, real=False):
    """A parser with the options that all benchmarks in the lab have. real: what --real would say is the default."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=rounds)
    p.add_argument("--json", action="store_true")
    p.add_argument("--peers", action="store_true", help="QEMU alone, the first of its machines against the others")
    p.add_argument("--here", action="store_true", help="on this host's KVM, not in the lab")
    p.add_argument("--real", action=argparse.BooleanOptionalAction, default=real,
                   help="a lab host with two processors on this machine's clock, instead of one that counts instructions")
    return p


def contest(contenders, args, warmup=1):
    """Runs them; (results, the name of ours). With --peers those of Vireo are left out."""
    if args.peers:
        contenders = {name: c for name, c in contenders.items() if not name.startswith("vireo")}
    return measure.interleave(contenders, args.rounds, warmup), next(iter(contenders))


def into_lab(script, args, artefacts, timeout=7200, memory=4096):
    """Runs this benchmark in the lab, after making the artefacts here. Returns its status."""
    for name in artefacts:
        artefact(name)
    if not args.peers and not measure.VMM.exists():
        sys.exit(f"{measure.VMM} is not there: build it, or set VIREO_BUILD")
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: qemu-system-x86_64 is not there")
        return 77
    kind = [] if args.real else ["--counted"]
    return subprocess.call([str(measure.TREE / "tests/lab/run"), *kind, "--timeout", str(timeout), "--memory", str(memory),
                            "--env", f"VIREO_BUILD={measure.BUILD}", "python3", str(pathlib.Path(script).resolve()), "--here",
                            *sys.argv[1:]])

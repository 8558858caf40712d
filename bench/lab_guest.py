# SPDX-License-Identifier: GPL-2.0-or-later
"""The same Linux guest on Vireo and on QEMU 7.2, for the benchmarks that need real KVM."""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/guest"))

import harness  # noqa: E402
import measure  # noqa: E402


def qemu(machine, memory, cpus, extra=(), kernel=None, initrd=None, append=""):
    """QEMU as its documentation advises for small machines: no defaults, no display, KVM, host CPU."""
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", str(memory), "-smp", str(cpus), "-nodefaults",
               "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-M", machine]
    if kernel:
        command += ["-kernel", kernel, "-initrd", initrd, "-append", append]
    return command + list(extra)


MICROVM = "microvm,x-option-roms=off,rtc=on,pit=off,pic=off,auto-kernel-cmdline=off"


def vireo(memory, cpus, extra=(), kernel=None, initrd=None, append=""):
    return [str(measure.VMM), "--kernel", kernel, "--initrd", initrd, "--append", append, "--memory", f"{memory}M",
            "--cpus", str(cpus), *extra]


def start(command):
    """A harness.Guest of any VMM whose serial line is its standard output."""
    return harness.Guest(program=command)


def into_lab(script, arguments, artefacts, timeout=1800, memory=3072):
    """Runs this benchmark in the lab, after making the artefacts here. Returns its status."""
    for name in artefacts:
        harness.artefact(name)
    return subprocess.call([str(measure.TREE / "tests/lab/run"), "--timeout", str(timeout), "--memory", str(memory), "--env",
                            f"VIREO_BUILD={measure.BUILD}", "python3", str(pathlib.Path(script).resolve()), "--here",
                            *arguments])

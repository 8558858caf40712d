# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab host is made of, each built once into the cache: its root, its initial RAM disk, its snapshot.

They are apart so that a change to the agent does not mean a new Debian root. All three hang together through
their hashes: a snapshot is only ever restored on the root it was taken on.
"""

import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))

import debian  # noqa: E402
import initrd as initial  # noqa: E402
import kernel  # noqa: E402
import machine  # noqa: E402

FLAVOUR = "amd64"
BOOT_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "erofs", "overlay", "9p", "9pnet_virtio"]
BOOT_SECONDS = 180


def _room(megabytes):
    free = shutil.disk_usage(debian.cache()).free >> 20
    if free < megabytes:
        raise debian.Failure(f"{debian.cache()} has {free} MB left, {megabytes} are needed: see VIREO_CACHE")


def root():
    """The lab host's read-only root, an erofs image."""
    lines = (HERE / "packages.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    known = debian.facts(packages)
    home = kernel.linux(FLAVOUR)
    hook = HERE / "root-hook.sh"

    def build(folder):
        debian.need("mkfs.erofs", "erofs-utils")
        _room(4096)
        version = (home / "version").read_text().strip()
        hooks = ['mkdir -p "$1/lib/modules"', debian.quote("copy-in", home / "modules" / version, "/lib/modules"),
                 hook.read_text(encoding="utf-8")]
        # Uncompressed: it is read by a machine that is slow at computing.
        debian.bootstrap(known, packages, hooks, 'mkfs.erofs -x-1 --quiet "$2" "$1"', folder / "root.erofs")

    key = debian.digest(home.name, known, hook, HERE.parent / "guest/debian.py")
    return debian.cached("lab-root", key, build) / "root.erofs"


def initrd():
    files = {"init": HERE / "init.sh", "lab/rc.sh": HERE / "rc.sh", "lab/agent.py": HERE / "agent.py"}

    def build(folder):
        contents = {path: (0o755, source.read_bytes()) for path, source in files.items()}
        (folder / "initrd").write_bytes(initial.make(FLAVOUR, BOOT_MODULES, contents))

    key = debian.digest(kernel.linux(FLAVOUR).name, initial.busybox().parent.name, BOOT_MODULES, *files.values(),
                        HERE.parent / "guest/initrd.py")
    return debian.cached("lab-initrd", key, build) / "initrd"


def snapshot(memory, smp, counted=False):
    """The folder with ram and state of a booted host that waits for its command."""
    def build(folder):
        _room(1024)
        with machine.Machine(root(), initrd(), memory, smp, counted=counted, ram=folder / "ram", keep_ram=True) as m:
            m.wait_ready(BOOT_SECONDS)
            m.save(folder / "state", BOOT_SECONDS)

    qemu = os.stat(machine.qemu())
    key = debian.digest(root().parent.name, initrd().parent.name, HERE / "machine.py", [qemu.st_size, qemu.st_mtime_ns])
    return debian.cached(f"lab-snapshot-{smp}x{memory}" + ("-counted" if counted else ""), key, build)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial RAM disks of our own: an uncompressed cpio archive (format "newc") with busybox, an init script and just
the modules asked for, in an order in which insmod can load them one after the other.
"""

import lzma
import pathlib
import shutil
import tempfile

import debian
import kernel

HERE = pathlib.Path(__file__).resolve().parent


def busybox():
    """The statically linked busybox of Debian, out of its package."""
    known = debian.facts(["busybox-static"])

    def build(folder):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            debian.run(["dpkg-deb", "-x", debian.download_deb("busybox-static", work), f"{work}/tree"])
            shutil.copy(next(pathlib.Path(work).glob("tree/**/bin/busybox")), folder / "busybox")

    return debian.cached("guest-busybox", debian.digest(known, HERE / "initrd.py"), build) / "busybox"


def _module_name(path):
    return path.name.partition(".ko")[0].replace("-", "_")


def _module(path):
    """A module's bytes; newer kernels have them compressed."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def load_order(tree, names):
    """The modules (name, bytes) that insmod must load for names, in order; what is built into the kernel is passed over."""
    files = {_module_name(p): p for p in tree.rglob("*.ko*")}
    builtin = {_module_name(pathlib.Path(p)) for p in (tree / "modules.builtin").read_text().split()}
    order = {}

    def visit(name):
        if name in builtin or name in order:
            return
        if name not in files:
            raise debian.Failure(f"kernel {tree.name} has no module {name}")
        data = _module(files[name])
        start = data.find(b"\0depends=") + 1
        depends = data[start:data.index(b"\0", start)].decode().partition("=")[2] if start else ""
        for d in filter(None, depends.split(",")):
            visit(d.replace("-", "_"))
        order[name] = data

    for n in names:
        visit(n.replace("-", "_"))
    return [(f"{name}.ko", data) for name, data in order.items()]


def cpio(entries):
    """A newc archive of (path, mode, data); data is empty for folders, the target for symbolic links."""
    out = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def make(flavour, modules, files):
    """An initial RAM disk for a kernel: busybox, modules in /m listed in /m/order, files {path: (mode, bytes)},
    which may lie one folder deep."""
    home = kernel.linux(flavour)
    version = (home / "version").read_text().strip()
    order = load_order(home / "modules" / version, modules)
    entries = [(d, 0o040755, b"") for d in ("bin", "dev", "m", "proc", "sys", "run", "tmp", "root", "mnt", "etc")]
    entries += [("bin/busybox", 0o100755, busybox().read_bytes()), ("bin/sh", 0o120777, b"busybox")]
    entries += [(f"m/{name}", 0o100644, data) for name, data in order]
    entries += [("m/order", 0o100644, "".join(name + "\n" for name, _ in order).encode())]
    entries += [(d, 0o040755, b"") for d in sorted({path.rpartition("/")[0] for path in files} - {""})]
    entries += [(path, 0o100000 | mode, data) for path, (mode, data) in files.items()]
    return cpio(entries)

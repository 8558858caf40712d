# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Debian kernels as test material: vmlinuz, vmlinux, the module tree, and initial RAM disks of our own.

An initial RAM disk is an uncompressed cpio archive (format "newc") with busybox, an init script and just the
modules asked for, in an order in which insmod can load them one after the other.
"""

import ctypes
import lzma
import pathlib
import shutil
import struct
import subprocess
import tempfile

import debian

HERE = pathlib.Path(__file__).resolve().parent
BUSYBOX = pathlib.Path("/bin/busybox")


def linux(flavour):
    """The folder of an unpacked kernel: vmlinuz, vmlinux, config, version, modules/VERSION (depmod has not run on it)."""
    package = f"linux-image-{flavour}"
    known = debian.facts([package])
    return debian.cached(f"linux-{flavour}", debian.digest(known, HERE / "kernel.py"), lambda d: _unpack(package, d))


def _unpack(package, folder):
    debian.need("dpkg-deb", "dpkg")
    show = debian.run(["apt-cache", "show", "--no-all-versions", package]).decode()
    depends = next(line for line in show.splitlines() if line.startswith("Depends:"))
    real = depends.split()[1]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-deb-") as work:
        deb = debian.download_deb(real, work)
        debian.run(["dpkg-deb", "-x", deb, f"{work}/tree"])
        tree = pathlib.Path(work, "tree")
        version = next(tree.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
        modules = next(p for p in (tree / "lib/modules", tree / "usr/lib/modules") if p.exists())
        shutil.move(modules, folder / "modules")
        shutil.copyfile(tree / f"boot/vmlinuz-{version}", folder / "vmlinuz")
        shutil.copyfile(tree / f"boot/config-{version}", folder / "config")
    (folder / "version").write_text(version + "\n", encoding="ascii")
    (folder / "vmlinux").write_bytes(vmlinux((folder / "vmlinuz").read_bytes()))


def vmlinux(image):
    """The ELF kernel inside a bzImage (Linux x86 boot protocol 2.08: payload_offset, payload_length)."""
    if image[0x202:0x206] != b"HdrS":
        raise debian.Failure("this kernel is no bzImage")
    setup_bytes = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    # The last four bytes hold the unpacked size; they are no part of the compressed stream.
    payload = image[setup_bytes + offset:setup_bytes + offset + length - 4]
    if payload.startswith(b"\xfd7zXZ"):
        elf = lzma.decompress(payload)
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        elf = _unlz4(payload[4:])
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        debian.need("zstd", "zstd")
        elf = subprocess.run(["zstd", "-dcq"], input=payload, stdout=subprocess.PIPE, check=True).stdout
    else:
        raise debian.Failure(f"this kernel's payload begins with {payload[:6].hex()}: an unknown compression")
    if not elf.startswith(b"\x7fELF"):
        raise debian.Failure("the kernel's payload is no ELF file")
    return elf


def _unlz4(data):
    """Blocks of the legacy LZ4 frame format, each at most 8 MiB unpacked; apt itself needs the library."""
    library = ctypes.CDLL("liblz4.so.1")
    block = ctypes.create_string_buffer(8 << 20)
    out, at = bytearray(), 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at:at + 4], "little")
        source = bytes(data[at + 4:at + 4 + length])
        n = library.LZ4_decompress_safe(source, block, len(source), len(block))
        if n < 0 or len(source) < length:
            raise debian.Failure("the kernel's LZ4 payload is damaged")
        out += memoryview(block)[:n]
        at += 4 + length
    return bytes(out)


def _module_name(path):
    return path.name.partition(".ko")[0].replace("-", "_")


def load_order(tree, names):
    """The module files that insmod must load for names, in order; what is built into the kernel is passed over."""
    files = {_module_name(p): p for p in tree.rglob("*.ko")}
    builtin = {_module_name(pathlib.Path(p)) for p in (tree / "modules.builtin").read_text().split()}
    order = []

    def visit(name):
        if name in builtin:
            return
        if name not in files:
            raise debian.Failure(f"kernel {tree.name} has no module {name}")
        data = files[name].read_bytes()
        start = data.find(b"\0depends=") + 1
        depends = data[start:data.index(b"\0", start)].decode().partition("=")[2] if start else ""
        for d in filter(None, depends.split(",")):
            visit(d.replace("-", "_"))
        if files[name] not in order:
            order.append(files[name])

    for n in names:
        visit(n.replace("-", "_"))
    return order


def _cpio(entries):
    """A newc archive of (path, mode, data); data is empty for folders, the target for symbolic links."""
    out = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def _is_dynamic(elf):
    """Whether an ELF64 program asks for an interpreter (a PT_INTERP header)."""
    offset, = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<HH", elf, 0x36)
    return any(struct.unpack_from("<I", elf, offset + i * size)[0] == 3 for i in range(count))


def initrd(flavour, modules, files):
    """An initial RAM disk for a kernel: busybox, modules in /m listed in /m/order, files {path: (mode, bytes)},
    which may lie one folder deep."""
    if not BUSYBOX.exists() or _is_dynamic(BUSYBOX.read_bytes()):
        raise debian.Failure(f"{BUSYBOX} must be the static one: apt-get install busybox-static")
    home = linux(flavour)
    version = (home / "version").read_text().strip()
    order = load_order(home / "modules" / version, modules)
    entries = [(d, 0o040755, b"") for d in ("bin", "dev", "m", "proc", "sys", "run", "tmp", "root", "mnt", "etc")]
    entries += [("bin/busybox", 0o100755, BUSYBOX.read_bytes()), ("bin/sh", 0o120777, b"busybox")]
    entries += [(f"m/{p.name}", 0o100644, p.read_bytes()) for p in order]
    entries += [("m/order", 0o100644, "".join(p.name + "\n" for p in order).encode())]
    entries += [(d, 0o040755, b"") for d in sorted({path.rpartition("/")[0] for path in files} - {""})]
    entries += [(path, 0o100000 | mode, data) for path, (mode, data) in files.items()]
    return _cpio(entries)

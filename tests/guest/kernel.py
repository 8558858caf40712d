# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Debian kernels as test material: vmlinuz, vmlinux (the ELF file inside), and the module tree."""

import ctypes
import lzma
import pathlib
import shutil
import struct
import subprocess
import tempfile

import debian

HERE = pathlib.Path(__file__).resolve().parent


def linux(flavour):
    """The folder of an unpacked kernel: vmlinuz, vmlinux, config, version, modules/VERSION (depmod has not run on it).
    flavour: "cloud-amd64", "amd64"; with "+backports" behind it the one of this release's backports."""
    name, _, suite = flavour.partition("+")
    package = f"linux-image-{name}"
    options = debian.backports() if suite == "backports" else []
    known = debian.facts([package], options)
    return debian.cached(f"linux-{flavour}", debian.digest(known, HERE / "kernel.py"),
                         lambda folder: _unpack(package, folder, options))


def _unpack(package, folder, options):
    debian.need("dpkg-deb", "dpkg")
    show = debian.run(["apt-cache", *options, "show", "--no-all-versions", package]).decode()
    depends = next(line for line in show.splitlines() if line.startswith("Depends:"))
    real = depends.split()[1]
    with tempfile.TemporaryDirectory(dir=folder) as work:
        deb = debian.download_deb(real, work, options)
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

#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Images that QEMU's tools wrote work here, and ours work there: usage: interchange.py [--long] VIREO [TEST...]

Each image is written by one side and read by the other; both checks must agree. Exit status 77 when qemu-img is missing.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ARGS = None
MIB = 1 << 20


def scratch():
    """Memory, where there is enough of it: both sides flush often, and what a disk does is not the question here."""
    shm = pathlib.Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 1 << 30:
        return shm
    return pathlib.Path.cwd()


def run(*command, status=0):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != status:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}, not {status}:\n{done.stdout}")
    return done.stdout


def ours(*words, status=0):
    return run(ARGS.vireo, "image", *words, status=status)


def theirs(*words, status=0):
    return run("qemu-img", *words, status=status)


SIDES = {"vireo": ours, "qemu": theirs}


def other(side):
    return "qemu" if side == "vireo" else "vireo"


def pattern(size, seed, parts=40):
    """A disk with data here and there, at odd sectors, and holes between."""
    rng = random.Random(seed)
    disk = bytearray(size)
    for _ in range(parts):
        start = rng.randrange(size // 512) * 512
        length = min(rng.choice((512, 4096, 5 * 512, 65536, 200 * 1024)), size - start)
        if rng.random() < 0.5:
            disk[start:start + length] = rng.randbytes(length)
        else:
            disk[start:start + length] = bytes((rng.randrange(256),)) * length
    return bytes(disk)


def options_text(options):
    return ",".join(f"{key}={value}" for key, value in options.items())


def combinations(*lists):
    """All of them in a long run; else every other one, so that each value still meets both sides."""
    for number, values in enumerate(itertools.product(*lists)):
        if ARGS.long or (number + number // len(lists[-1])) % 2 == 0:
            yield (number, *values)


MATRIX = [
    {},
    {"cluster_size": "512"},
    {"cluster_size": "4096", "refcount_bits": "64"},
    {"cluster_size": "2M"},
    {"refcount_bits": "1"},
    {"refcount_bits": "2", "cluster_size": "8192"},
    {"refcount_bits": "8", "lazy_refcounts": "on"},
    {"compat": "0.10"},
    {"compat": "0.10", "cluster_size": "1024"},
    {"extended_l2": "on"},
    {"extended_l2": "on", "cluster_size": "16384", "refcount_bits": "32"},
    {"extended_l2": "on", "cluster_size": "2M"},
    {"compression_type": "zstd"},
    {"compression_type": "zstd", "extended_l2": "on", "cluster_size": "128k"},
]


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="vireo-interchange-", dir=scratch()))
        self.addCleanup(shutil.rmtree, self.dir)
        self.image = self.dir / "image.qcow2"
        self.size = 6 * MIB + 512

    def reference(self, seed, size=None):
        path = self.dir / f"reference-{seed}.raw"
        path.write_bytes(pattern(size or self.size, seed))
        return path

    def check(self, image=None):
        image = image or self.image
        mine = json.loads(ours("check", "--json", "-f", "qcow2", image))
        peer = json.loads(theirs("check", "--output=json", "-f", "qcow2", image))
        for key in ("total-clusters", "allocated-clusters", "compressed-clusters"):
            self.assertEqual(mine[key], peer.get(key, 0), key)

    def same(self, reference, image=None, extra=()):
        """Both sides read what the reference holds."""
        image = image or self.image
        want = reference.read_bytes()
        for side, tool in SIDES.items():
            out = self.dir / "read.raw"
            tool("convert", "-f", "qcow2", "-O", "raw", *(extra if side == "vireo" else ()), image, out)
            got = out.read_bytes()
            self.assertEqual(len(got), len(want), side)
            if got != want:
                at = next(i for i, pair in enumerate(zip(got, want)) if pair[0] != pair[1])
                self.fail(f"{side} reads something else at {at:#x}")
            out.unlink()

    def write_over(self, side, seed, reference, parts=25):
        """Random writes, zeroes and discards through qemu-io; or through our convert, whole. The reference follows."""
        disk = bytearray(reference.read_bytes())
        if side == "vireo":
            reference.write_bytes(pattern(len(disk), seed))
            ours("convert", "-n", "-f", "raw", "-O", "qcow2", reference, self.image)
            return
        rng = random.Random(seed)
        commands = []
        for _ in range(parts):
            start = rng.randrange(len(disk) // 512) * 512
            length = min(rng.choice((512, 4096, 65536, 150 * 1024)), len(disk) - start)
            if rng.random() < 0.7:
                value = rng.randrange(1, 256)
                commands += ["-c", f"write -P {value} {start} {length}"]
            else:
                value = 0
                commands += ["-c", f"write -z {'-u ' if rng.random() < 0.5 else ''}{start} {length}"]
            disk[start:start + length] = bytes((value,)) * length
        run("qemu-io", "-f", "qcow2", *commands, self.image)
        reference.write_bytes(disk)


class Matrix(Case):
    def test_plain(self):
        for number, options, side in combinations(MATRIX, SIDES):
            with self.subTest(options=options, side=side):
                reference = self.reference(number)
                extra = ("-o", options_text(options)) if options else ()
                SIDES[side]("convert", "-f", "raw", "-O", "qcow2", *extra, reference, self.image)
                self.check()
                self.same(reference)
                self.write_over(other(side), number + 1000, reference)
                self.check()
                self.same(reference)
                self.write_over(side, number + 2000, reference)
                self.check()
                self.same(reference)

    def test_compressed(self):
        for number, options, side in combinations(MATRIX, SIDES):
            if options.get("compat") and options.get("cluster_size"):
                continue
            with self.subTest(options=options, side=side):
                reference = self.reference(number)
                extra = ("-o", options_text(options)) if options else ()
                SIDES[side]("convert", "-c", "-f", "raw", "-O", "qcow2", *extra, reference, self.image)
                self.check()
                self.same(reference)
                self.write_over(other(side), number + 3000, reference)
                self.check()
                self.same(reference)

    def test_preallocation(self):
        for _, mode, ext, side in combinations(("metadata", "falloc", "full"), ("off", "on"), SIDES):
            with self.subTest(mode=mode, side=side, ext=ext):
                self.image.unlink(missing_ok=True)
                SIDES[side]("create", "-q", "-f", "qcow2", "-o", f"preallocation={mode},extended_l2={ext}", self.image, self.size)
                reference = self.dir / "zero.raw"
                reference.write_bytes(bytes(self.size))
                self.check()
                self.same(reference)
                self.write_over(other(side), 5, reference)
                self.check()
                self.same(reference)

    def test_data_file(self):
        for side, raw in itertools.product(SIDES, ("off", "on")):
            with self.subTest(side=side, raw=raw):
                data = self.dir / "data.bin"
                data.unlink(missing_ok=True)
                self.image.unlink(missing_ok=True)
                # Absolute: qemu-img takes a relative one from where it runs, not from where the image is.
                with_data = f"data_file={data},data_file_raw={raw}"
                SIDES[side]("create", "-q", "-f", "qcow2", "-o", with_data, self.image, self.size)
                reference = self.dir / "zero.raw"
                reference.write_bytes(bytes(self.size))
                for writer in SIDES:
                    self.write_over(writer, 7, reference)
                    self.check()
                    self.same(reference)
                    if raw == "on":
                        self.assertEqual(data.read_bytes()[:self.size], reference.read_bytes())


class Chains(Case):
    def test_backing(self):
        for number, (side, base_format) in enumerate(itertools.product(SIDES, ("raw", "qcow2"))):
            with self.subTest(side=side, base=base_format):
                reference = self.reference(number)
                base = self.dir / f"base.{base_format}"
                SIDES[other(side)]("convert", "-f", "raw", "-O", base_format, reference, base)
                self.image.unlink(missing_ok=True)
                SIDES[side]("create", "-q", "-f", "qcow2", "-b", base.name, "-F", base_format, self.image)
                self.check()
                self.same(reference)
                before = base.read_bytes()
                for writer in SIDES:
                    self.write_over(writer, number + 10, reference)
                    self.check()
                    self.same(reference)
                self.assertEqual(base.read_bytes(), before)

    def test_chain_of_many(self):
        reference = self.reference(1)
        theirs("convert", "-f", "raw", "-O", "qcow2", reference, self.dir / "0.qcow2")
        for depth in range(1, 12):
            side = "vireo" if depth % 2 else "qemu"
            self.image = self.dir / f"{depth}.qcow2"
            SIDES[side]("create", "-q", "-f", "qcow2", "-b", f"{depth - 1}.qcow2", "-F", "qcow2", self.image)
            run("qemu-io", "-f", "qcow2", "-c", f"write -P {depth} {depth * 70000 // 512 * 512} 40k", self.image)
            disk = bytearray(reference.read_bytes())
            start = depth * 70000 // 512 * 512
            disk[start:start + 40960] = bytes((depth,)) * 40960
            reference.write_bytes(disk)
        self.check()
        self.same(reference)

    def test_backing_shorter_and_longer(self):
        for base_size, size in ((2 * MIB + 512, self.size), (self.size, 2 * MIB)):
            with self.subTest(base=base_size, size=size):
                content = self.reference(base_size, base_size)
                base = self.dir / "base.raw"
                shutil.copy(content, base)
                self.image.unlink(missing_ok=True)
                ours("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", self.image, size)
                reference = self.dir / "cut.raw"
                reference.write_bytes((content.read_bytes() + bytes(size))[:size])
                self.same(reference)
                ours("resize", "-f", "qcow2", self.image, self.size)
                reference.write_bytes(reference.read_bytes()[:size] + bytes(self.size - size))
                self.check()
                self.same(reference)

    def test_commit_and_rebase(self):
        for side in SIDES:
            with self.subTest(side=side):
                reference = self.reference(3)
                base, middle = self.dir / "base.qcow2", self.dir / "middle.qcow2"
                for path in (middle, self.image):
                    path.unlink(missing_ok=True)
                ours("convert", "-f", "raw", "-O", "qcow2", reference, base)
                ours("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", middle)
                run("qemu-io", "-c", "write -P 0x31 100k 300k", "-c", "write -z 1M 128k", middle)
                ours("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", self.image)
                run("qemu-io", "-c", "write -P 0x41 200k 10k", self.image)
                before = self.dir / "before.raw"
                theirs("convert", "-O", "raw", self.image, before)
                SIDES[side]("rebase", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", self.image)
                self.check()
                self.same(before)
                SIDES[side]("commit", "-f", "qcow2", "-q", self.image)
                self.check(base)
                self.same(before, base)
                ours("rebase", "-f", "qcow2", "-b", "", base)
                self.same(before, base)


class Changes(Case):
    def test_snapshots(self):
        for _, options in combinations(MATRIX):
            if options.get("refcount_bits") in ("1", "2"):
                continue  # they cannot count so many
            with self.subTest(options=options):
                first = self.reference(1)
                extra = ("-o", options_text(options)) if options else ()
                ours("convert", "-f", "raw", "-O", "qcow2", *extra, first, self.image)
                kept = {}
                for turn, maker in enumerate(("vireo", "qemu")):
                    SIDES[maker]("snapshot", "-c", f"s{turn}", self.image)
                    self.check()
                    kept[f"s{turn}"] = self.dir / f"s{turn}.raw"
                    shutil.copy(first, kept[f"s{turn}"])
                    self.write_over(other(maker), turn + 20, first)
                    self.check()
                    self.same(first)
                listed = json.loads(ours("snapshot", "-l", "--json", self.image))
                self.assertEqual([s["name"] for s in listed], ["s0", "s1"])
                self.assertEqual(re.findall(r"^\d+ +(s\d)", theirs("snapshot", "-l", self.image), re.M), ["s0", "s1"])
                for name, applier in (("s0", "qemu"), ("s1", "vireo"), ("s0", "vireo")):
                    SIDES[applier]("snapshot", "-a", name, self.image)
                    self.check()
                    self.same(kept[name])
                ours("snapshot", "-d", "s1", self.image)
                self.check()
                self.same(kept["s0"])
                theirs("snapshot", "-d", "s0", self.image)
                self.check()
                self.same(kept["s0"])

    def test_resize(self):
        for options in ({}, {"cluster_size": "512"}, {"extended_l2": "on"}, {"compat": "0.10"}):
            with self.subTest(options=options):
                reference = self.reference(2)
                extra = ("-o", options_text(options)) if options else ()
                theirs("convert", "-f", "raw", "-O", "qcow2", *extra, reference, self.image)
                for side, size in (("vireo", 40 * MIB), ("qemu", 41 * MIB), ("vireo", 3 * MIB + 512), ("vireo", 9 * MIB)):
                    SIDES[side]("resize", "-f", "qcow2", "--shrink", self.image, size)
                    reference.write_bytes((reference.read_bytes() + bytes(size))[:size])
                    self.check()
                    self.same(reference)
                    self.write_over("qemu", size, reference)
                    self.check()

    def test_repair(self):
        """A writer that was killed with lazy refcounts; leaks; a refcount that is too low."""
        reference = self.reference(4)
        ours("convert", "-f", "raw", "-O", "qcow2", "-o", "lazy_refcounts=on", reference, self.image)
        run("qemu-io", "-c", "write -P 7 3M 200k", "-c", "flush", "-c", "abort", self.image, status=-6)
        disk = bytearray(reference.read_bytes())
        disk[3 * MIB:3 * MIB + 200 * 1024] = b"\x07" * (200 * 1024)
        reference.write_bytes(disk)
        self.assertTrue(json.loads(ours("info", "--json", self.image))["dirty-flag"])
        ours("check", self.image, status=2)
        ours("check", "-r", "all", self.image)
        self.check()
        self.same(reference)
        self.assertFalse(json.loads(ours("info", "--json", self.image))["dirty-flag"])
        with self.image.open("r+b") as file:  # the refcount block of a new image is its third cluster
            file.seek(2 * 65536 + 2 * 5)
            file.write(b"\0\0")
        ours("check", self.image, status=0 if "no errors" in ours("check", "-r", "all", self.image) else 2)
        self.check()
        self.same(reference)

    def test_unknown_extension_is_kept(self):
        reference = self.reference(5)
        theirs("convert", "-f", "raw", "-O", "qcow2", reference, self.image)
        raw = bytearray(self.image.read_bytes())
        at = 112
        while raw[at:at + 4] != b"\0\0\0\0":
            at += 8 + (int.from_bytes(raw[at + 4:at + 8], "big") + 7) // 8 * 8
        raw[at:at + 16] = b"\x12\x34\x56\x78" + (5).to_bytes(4, "big") + b"hello\0\0\0"
        self.image.write_bytes(raw)
        (self.dir / "base.raw").write_bytes(bytes(self.size))
        ours("rebase", "-u", "-b", "base.raw", "-F", "raw", self.image)
        self.assertIn(b"\x12\x34\x56\x78\0\0\0\x05hello", self.image.read_bytes()[:65536])
        theirs("check", self.image)
        self.same(reference)

    def test_info_agrees(self):
        for options in MATRIX:
            with self.subTest(options=options):
                extra = ("-o", options_text(options)) if options else ()
                self.image.unlink(missing_ok=True)
                ours("create", "-q", "-f", "qcow2", *extra, self.image, "100M")
                mine = json.loads(ours("info", "--json", self.image))
                peer = json.loads(theirs("info", "--output=json", self.image))
                for key in ("virtual-size", "format", "cluster-size", "dirty-flag"):
                    self.assertEqual(mine[key], peer[key], key)
                for key, value in peer["format-specific"]["data"].items():
                    self.assertEqual(mine["format-specific"]["data"][key], value, key)

    def test_map_agrees(self):
        reference = self.reference(6)
        ours("convert", "-f", "raw", "-O", "qcow2", reference, self.image)
        mine = [(e["start"], e["length"]) for e in json.loads(ours("map", "--json", self.image)) if e["data"]]
        peer = [(e["start"], e["length"]) for e in json.loads(theirs("map", "--output=json", self.image)) if e["data"]]

        def joined(extents):
            out = []
            for start, length in extents:
                if out and out[-1][0] + out[-1][1] == start:
                    out[-1] = (out[-1][0], out[-1][1] + length)
                else:
                    out.append((start, length))
            return out
        self.assertEqual(joined(mine), joined(peer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("vireo", type=lambda name: pathlib.Path(name).resolve())
    parser.add_argument("--long", action="store_true", help="every combination")
    parser.add_argument("tests", nargs="*")
    ARGS = parser.parse_args()
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("skipped: qemu-img and qemu-io are missing (package qemu-utils)")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *ARGS.tests])

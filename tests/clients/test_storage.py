#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage pools and volumes by Debian's virsh and python3-libvirt: folders, raw images, streams of their bytes.

usage: test_storage.py [unittest options]; VIREO_BUILD names the build folder. Skipped (77) without the clients.
"""

import os
import pathlib
import shutil
import sys
import threading
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

try:
    import libvirt
except ImportError:
    print("skipped: python3-libvirt is missing")
    sys.exit(77)

from daemon import Daemon, until  # noqa: E402

MIB = 1 << 20


def pump():
    while True:
        libvirt.virEventRunDefaultImpl()


class Storage(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(lambda *_: None, None)
        threading.Thread(target=pump, daemon=True).start()

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.virsh = self.daemon.virsh
        self.folder = self.daemon.root / "images"

    def says(self, expected, *words):
        self.assertEqual(self.virsh(*words), expected, words)

    def fails(self, expected, *words):
        self.assertIn(expected, self.daemon.fails(*words))

    def pool(self):
        self.virsh(f"pool-define-as p dir --target {self.folder}; pool-build p; pool-start p")

    def connect(self):
        conn = libvirt.open(self.daemon.uri())
        self.addCleanup(conn.close)
        return conn

    def code(self, function, *args):
        with self.assertRaises(libvirt.libvirtError) as caught:
            function(*args)
        return caught.exception.get_error_code()

    def test_a_pool_s_life(self):
        self.says("Pool p defined", "pool-define-as", "p", "dir", "--target", self.folder)
        self.assertRegex(self.virsh("pool-list", "--all"), r"Name +State +Autostart\n-+\n p +inactive +no$")
        self.fails("cannot open directory", "pool-start", "p")
        self.says("Pool p built", "pool-build", "p")
        self.assertTrue(self.folder.is_dir())
        self.says("Pool p started", "pool-start", "p")
        self.fails("Requested operation is not valid: storage pool 'p' is already active", "pool-start", "p")
        self.fails("Requested operation is not valid: storage pool 'p' is still active", "pool-undefine", "p")
        self.says("Pool p marked as autostarted", "pool-autostart", "p")
        info = self.virsh("pool-info", "p")
        self.assertRegex(info, r"State: +running\nPersistent: +yes\nAutostart: +yes\nCapacity: ")
        self.assertIn(f"<path>{self.folder}</path>", self.virsh("pool-dumpxml", "p"))
        self.daemon.kill()
        self.daemon.start()
        until(lambda: "running" in self.virsh("pool-info", "p"), "autostart")
        self.says("Pool p refreshed", "pool-refresh", "p")
        self.says("Pool p destroyed", "pool-destroy", "p")
        self.says("Pool p deleted", "pool-delete", "p")
        self.assertFalse(self.folder.exists())
        self.says("Pool p has been undefined", "pool-undefine", "p")
        self.assertRegex(self.virsh("pool-list", "--all"), r"Name +State +Autostart\n-+$")
        self.assertEqual(os.listdir(self.daemon.root / "conf/storage"), ["autostart"])
        self.assertEqual(os.listdir(self.daemon.root / "conf/storage/autostart"), [])

    def test_a_transient_pool(self):
        self.folder.mkdir()
        self.says("Pool t created", "pool-create-as", "t", "dir", "--target", self.folder)
        self.assertRegex(self.virsh("pool-info", "t"), r"Persistent: +no")
        self.fails("cannot set autostart for transient pool", "pool-autostart", "t")
        self.says("Pool t destroyed", "pool-destroy", "t")
        # One that is defined, started as if it were transient, stays defined.
        self.virsh(f"pool-define-as kept dir --target {self.folder}")
        kept = self.virsh("pool-uuid", "kept")
        file = self.daemon.root / "kept.xml"
        file.write_text(f"<pool type='dir'><name>kept</name><uuid>{kept}</uuid><target><path>{self.folder}</path></target></pool>")
        self.says(f"Pool kept created from {file}", "pool-create", file)
        self.assertRegex(self.virsh("pool-info", "kept"), r"Persistent: +yes")
        self.fails("pool 'kept' is already active", "pool-create", file)
        self.fails("failed to get pool 't'", "pool-info", "t")
        self.fails("cannot open directory", "pool-create-as", "t", "dir", "--target", self.daemon.root / "nowhere")
        self.assertNotIn(" t ", self.virsh("pool-list", "--all"))

    def test_volumes(self):
        self.pool()
        self.says("Vol a.img created", "vol-create-as", "p", "a.img", "10M")
        path = self.folder / "a.img"
        self.assertEqual(path.stat().st_size, 10 * MIB)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.says(str(path), "vol-path", "a.img", "--pool", "p")
        self.says("a.img", "vol-name", path)
        self.says("p", "vol-pool", path)
        self.assertRegex(self.virsh("vol-info", path), r"Name: +a.img\nType: +file\nCapacity: +10.00 MiB\nAllocation: +0.00")
        self.assertIn("<format type='raw'/>", self.virsh("vol-dumpxml", path))
        self.fails("already in use", "vol-create-as", "p", "a.img", "10M")
        self.virsh("vol-create-as", "p", "odd.img", "1000")
        self.assertEqual((self.folder / "odd.img").stat().st_size, 1024)
        self.virsh("vol-delete", "odd.img", "--pool", "p")
        self.says("Vol b.img created", "vol-create-as", "p", "b.img", "1M", "--allocation", "1M")
        self.assertEqual((self.folder / "b.img").stat().st_blocks * 512, MIB)
        self.assertIn("Size of volume", self.virsh("vol-resize", path, "20M"))
        self.assertEqual(path.stat().st_size, 20 * MIB)
        self.fails("Can't shrink", "vol-resize", path, "5M")
        self.virsh("vol-resize", path, "5M", "--shrink")
        self.assertEqual(path.stat().st_size, 5 * MIB)
        path.write_bytes(b"x" * MIB)
        self.virsh("pool-refresh", "p")
        self.says("Vol c.img cloned from a.img", "vol-clone", "a.img", "c.img", "--pool", "p")
        self.assertEqual((self.folder / "c.img").read_bytes(), b"x" * MIB)
        self.virsh("vol-wipe", path)
        self.assertEqual(path.read_bytes(), bytes(MIB))
        self.assertEqual([line.split()[0] for line in self.virsh("vol-list", "p").splitlines()[2:]], ["a.img", "b.img", "c.img"])
        self.says(f"Vol {path} deleted", "vol-delete", path)
        self.assertFalse(path.exists())
        self.fails("failed to get vol", "vol-info", path)

    def test_what_is_no_volume_is_none(self):
        self.pool()
        (self.folder / "folder").mkdir()
        os.mkfifo(self.folder / "pipe")
        (self.folder / "link").symlink_to("/etc/passwd")
        (self.folder / ".hidden").write_text("x")
        (self.folder / "seen").write_text("x")
        self.virsh("pool-refresh", "p")
        self.assertEqual([line.split()[0] for line in self.virsh("vol-list", "p").splitlines()[2:]], ["seen"])
        self.fails("element <format> of <target>: 'vmdk'", "vol-create-as", "p", "v", "1M", "--format", "vmdk")
        self.fails("cannot be a file's name", "vol-create-as", "p", "../outside", "1M")
        self.fails("attribute type='logical'", "pool-define-as", "l", "logical")
        self.assertEqual(sorted(os.listdir(self.folder)), [".hidden", "folder", "link", "pipe", "seen"])

    def test_bytes_go_up_and_come_down(self):
        self.pool()
        data = os.urandom(3 * MIB + 25 * 512)
        source, back = self.daemon.root / "source", self.daemon.root / "back"
        source.write_bytes(data)
        self.virsh("vol-create-as", "p", "u.img", len(data))
        self.virsh("vol-upload", "u.img", source, "--pool", "p")
        self.assertEqual((self.folder / "u.img").read_bytes(), data)
        self.virsh("vol-download", "u.img", back, "--pool", "p")
        self.assertEqual(back.read_bytes(), data)
        self.virsh("vol-download", "u.img", back, "--pool", "p", "--offset", "1000", "--length", "100000")
        self.assertEqual(back.read_bytes(), data[1000:101000])
        source.write_bytes(b"middle")
        self.virsh("vol-upload", "u.img", source, "--pool", "p", "--offset", "500")
        self.assertEqual((self.folder / "u.img").read_bytes(), data[:500] + b"middle" + data[506:])

    def test_streams_that_end_badly(self):
        self.pool()
        self.virsh("vol-create-as", "p", "s.img", "8M")
        conn = self.connect()
        vol = conn.storagePoolLookupByName("p").storageVolLookupByName("s.img")
        stream = conn.newStream()
        vol.upload(stream, 0, 10)
        stream.send(b"x" * 1000)
        self.assertNotEqual(self.code(stream.finish), 0)
        stream = conn.newStream()
        vol.download(stream, 0, 0)
        self.assertEqual(len(stream.recv(1000)), 1000)
        stream.abort()
        # One that nobody reads, left with its connection.
        other = libvirt.open(self.daemon.uri())
        stream = other.newStream()
        other.storagePoolLookupByName("p").storageVolLookupByName("s.img").download(stream, 0, 0)
        del stream
        other.close()
        self.assertEqual(vol.info()[1], 8 * MIB)

    def test_events_and_codes(self):
        conn = self.connect()
        seen = []
        life = conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE,
                                                lambda _, pool, event, *rest: seen.append((pool.name(), event)), None)
        fresh = conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH,
                                                 lambda _, pool, *rest: seen.append((pool.name(), "refreshed")), None)
        pool = conn.storagePoolDefineXML(f"<pool type='dir'><name>e</name><target><path>{self.folder}</path></target></pool>")
        pool.build()
        pool.create()
        pool.refresh()
        pool.destroy()
        pool.undefine()
        until(lambda: len(seen) >= 6, "events")
        self.assertEqual(seen, [("e", 0), ("e", 4), ("e", 2), ("e", "refreshed"), ("e", 3), ("e", 1)])
        conn.storagePoolEventDeregisterAny(life)
        conn.storagePoolEventDeregisterAny(fresh)
        self.assertEqual(self.code(conn.storagePoolLookupByName, "none"), libvirt.VIR_ERR_NO_STORAGE_POOL)
        self.assertEqual(self.code(conn.storageVolLookupByPath, "/none"), libvirt.VIR_ERR_NO_STORAGE_VOL)
        self.assertEqual(self.code(pool.info), libvirt.VIR_ERR_NO_STORAGE_POOL)
        self.assertEqual(self.code(conn.storagePoolDefineXML, "<pool/>"), libvirt.VIR_ERR_XML_ERROR)

    def test_a_machine_s_disk_is_a_volume(self):
        self.pool()
        self.virsh("vol-create-as", "p", "d.img", "1M")
        self.daemon.define("m", inside=f"<devices><disk type='file'><source file='{self.folder}/d.img'/>"
                                       "<target dev='vda'/></disk></devices>")
        self.virsh("start", "m")
        self.assertRegex(self.virsh("domblkinfo", "m", "vda"), r"Capacity: +1048576")
        self.virsh("destroy", "m")


if __name__ == "__main__":
    if not shutil.which("virsh"):
        print("skipped: virsh is missing (package libvirt-clients)")
        sys.exit(77)
    unittest.main()

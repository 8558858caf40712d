#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A program on python3-libvirt: events in order, error codes, transient machines, a console's stream, two connections.

usage: test_python.py [unittest options]; VIREO_BUILD names the build folder. Skipped (77) without python3-libvirt.
"""

import pathlib
import sys
import threading
import unittest
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

try:
    import libvirt
except ImportError:
    print("skipped: python3-libvirt is missing")
    sys.exit(77)

from daemon import PANIC, POLITE, Daemon, until  # noqa: E402

KINDS = {libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined", libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
         libvirt.VIR_DOMAIN_EVENT_STARTED: "started", libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
         libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed", libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
         libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown", libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed"}


def pump():
    while True:
        libvirt.virEventRunDefaultImpl()


class Python(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(lambda *_: None, None)
        threading.Thread(target=pump, daemon=True).start()

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.conn = libvirt.open(self.daemon.uri())
        self.addCleanup(self.conn.close)
        self.seen = []

    def watch(self, dom=None):
        def lifecycle(_, which, event, detail, __):
            self.seen.append((which.name(), KINDS[event], detail))

        def reboot(_, which, __):
            self.seen.append((which.name(), "rebooted", 0))
        for kind, callback in ((libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle), (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot)):
            number = self.conn.domainEventRegisterAny(dom, kind, callback, None)
            self.addCleanup(self.conn.domainEventDeregisterAny, number)

    def expect(self, *events):
        until(lambda: len(self.seen) >= len(events), lambda: f"{events}, not {self.seen}")
        self.assertEqual(self.seen, list(events))
        self.seen.clear()

    def xml(self, *args, **kwargs):
        return self.daemon.xml(*args, **kwargs).read_text()

    def code(self, function, *args):
        with self.assertRaises(libvirt.libvirtError) as caught:
            function(*args)
        return caught.exception.get_error_code()

    def test_events_come_in_order(self):
        self.watch()
        text = self.xml("a", POLITE)
        dom = self.conn.defineXML(text)
        self.conn.defineXML(text)
        dom.create()
        dom.suspend()
        dom.resume()
        dom.shutdown()
        self.expect(("a", "defined", 0), ("a", "defined", 1), ("a", "started", 0), ("a", "suspended", 0),
                    ("a", "resumed", 0), ("a", "shutdown", 0), ("a", "stopped", 0))
        dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        dom.destroy()
        dom.rename("b")
        dom = self.conn.lookupByName("b")
        dom.undefine()
        self.expect(("a", "started", 0), ("a", "suspended", 0), ("a", "stopped", 1), ("a", "undefined", 1),
                    ("b", "defined", 2), ("b", "undefined", 0))

    def test_a_panic_is_an_event(self):
        self.watch()
        dom = self.conn.createXML(self.xml("p", PANIC, inside="<devices><panic model='isa'/></devices>"))
        self.expect(("p", "started", 0), ("p", "crashed", 0), ("p", "stopped", 2))
        self.assertEqual(self.code(dom.info), libvirt.VIR_ERR_NO_DOMAIN)

    def test_a_reboot_is_an_event(self):
        self.watch()
        dom = self.conn.createXML(self.xml("r", POLITE))
        dom.reboot()
        self.expect(("r", "started", 0), ("r", "rebooted", 0))

    def test_only_the_machine_that_is_watched(self):
        one, two = self.conn.defineXML(self.xml("one")), self.conn.defineXML(self.xml("two"))
        self.watch(one)
        for dom in (two, one):
            dom.create()
            dom.destroy()
        self.expect(("one", "started", 0), ("one", "stopped", 1))

    def test_another_connection_hears_too_and_leaves(self):
        other = libvirt.open(self.daemon.uri("virtqemud-sock"))
        heard = []
        other.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *a: heard.append(a[1].name()), None)
        self.watch()
        self.conn.defineXML(self.xml("x")).undefine()
        until(lambda: len(heard) == 2, "both are heard")
        other.close()
        self.conn.defineXML(self.xml("y")).undefine()
        self.expect(("x", "defined", 0), ("x", "undefined", 0), ("y", "defined", 0), ("y", "undefined", 0))

    def test_every_kind_of_event_may_be_asked_for(self):
        for kind in range(27):
            number = self.conn.domainEventRegisterAny(None, kind, lambda *_: None, None)
            self.conn.domainEventDeregisterAny(number)
        number = self.conn.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lambda *_: None, None)
        self.conn.networkEventDeregisterAny(number)
        number = self.conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, lambda *_: None, None)
        self.conn.storagePoolEventDeregisterAny(number)

    def test_codes_that_clients_depend_on(self):
        self.assertEqual(self.code(self.conn.lookupByName, "nobody"), libvirt.VIR_ERR_NO_DOMAIN)
        self.assertEqual(self.code(self.conn.lookupByUUID, uuid.uuid4().bytes), libvirt.VIR_ERR_NO_DOMAIN)
        self.assertEqual(self.code(self.conn.lookupByID, 77), libvirt.VIR_ERR_NO_DOMAIN)
        self.assertEqual(self.code(self.conn.defineXML, "<domain"), libvirt.VIR_ERR_XML_ERROR)
        self.assertEqual(self.code(self.conn.defineXML, self.xml("g", inside="<devices><graphics type='vnc'/></devices>")),
                         libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
        self.assertEqual(self.code(self.conn.getDomainCapabilities, None, "aarch64", None, "kvm"), libvirt.VIR_ERR_INVALID_ARG)
        self.assertEqual(self.code(self.conn.getSysinfo), libvirt.VIR_ERR_NO_SUPPORT)
        dom = self.conn.defineXML(self.xml("a"))
        self.assertEqual(self.code(dom.destroy), libvirt.VIR_ERR_OPERATION_INVALID)
        self.assertEqual(self.code(dom.jobInfo), libvirt.VIR_ERR_OPERATION_INVALID)
        self.assertEqual(self.code(dom.metadata, libvirt.VIR_DOMAIN_METADATA_TITLE, None), libvirt.VIR_ERR_NO_DOMAIN_METADATA)
        dom.create()
        self.assertEqual(self.code(dom.create), libvirt.VIR_ERR_OPERATION_INVALID)
        self.assertEqual(self.code(self.conn.createXML, self.xml("a", uuid=dom.UUIDString())), libvirt.VIR_ERR_OPERATION_INVALID)
        reader = libvirt.openReadOnly(self.daemon.uri("libvirt-sock-ro"))
        self.assertEqual(self.code(reader.lookupByName("a").destroy), libvirt.VIR_ERR_OPERATION_DENIED)
        reader.close()

    def test_lists_and_numbers_agree(self):
        for i in range(5):
            dom = self.conn.defineXML(self.xml(f"d{i}"))
            if i < 2:
                dom.create()
        self.assertEqual((self.conn.numOfDomains(), self.conn.numOfDefinedDomains()), (2, 3))
        self.assertEqual(len(self.conn.listDomainsID()), 2)
        self.assertEqual(sorted(self.conn.listDefinedDomains()), ["d2", "d3", "d4"])
        for flags, count in ((0, 5), (libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE, 2), (libvirt.VIR_CONNECT_LIST_DOMAINS_SHUTOFF, 3),
                             (libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING | libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED, 2),
                             (libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT, 0)):
            self.assertEqual(len(self.conn.listAllDomains(flags)), count, flags)
        stats = {dom.name(): values for dom, values in self.conn.getAllDomainStats()}
        self.assertEqual(sorted(stats), [f"d{i}" for i in range(5)])
        self.assertEqual(stats["d0"]["state.state"], libvirt.VIR_DOMAIN_RUNNING)
        one = self.conn.domainListGetStats([self.conn.lookupByName("d3")], libvirt.VIR_DOMAIN_STATS_STATE)
        self.assertEqual(one[0][1], {"state.state": libvirt.VIR_DOMAIN_SHUTOFF, "state.reason": 0})

    def test_the_console_is_a_stream(self):
        dom = self.conn.createXML(self.xml("s", [f"out 0x3f8 1 {ord(c)}" for c in "in the scrollback\n"] + ["idle"]))
        first = self.conn.newStream()
        dom.openConsole(None, first, 0)
        second = self.conn.newStream()
        self.assertEqual(self.code(dom.openConsole, None, second, 0), libvirt.VIR_ERR_OPERATION_FAILED)
        third = self.conn.newStream()
        dom.openConsole(None, third, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        self.assertEqual(third.send(b"typed\n"), 6)
        third.finish()
        self.assertEqual(self.conn.getType(), "QEMU")

    def test_many_threads_on_one_connection(self):
        dom = self.conn.defineXML(self.xml("busy"))
        failures = []

        def ask():
            try:
                for _ in range(50):
                    dom.info()
                    dom.XMLDesc()
                    self.conn.listAllDomains()
            except libvirt.libvirtError as why:
                failures.append(why)
        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            dom.create()
            dom.destroy()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest tests: stock Debian kernels and roots on vireo-vmm. Each case is a function; @case names what it shows.

They run on a host with real KVM (see run-suite). A case fails by raising; it is long when it does not belong into the
quick run.
"""

import grp
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

import qmp_library
from harness import BUILD, VMM, Failure, Guest, Qmp, artefact, linux, script
from terminal import Terminal, wait_raw
from work import do_pieces

CASES = []


def case(long=False, kvm=False, soft=False):
    """kvm, soft: for KVM, for the software CPU alone; the other skips it."""
    def register(function):
        CASES.append((function.__name__.replace("_", "-"), function, long, "kvm" if kvm else "soft" if soft else None))
        return function
    return register


def boots(cpus, memory, flavour="cloud", low=0, **options):
    """Boots to a shell script that says what it sees; returns MemTotal in KiB."""
    # The emulated host of the lab does not intercept XSETBV, so every guest there, QEMU's too, is told a stale size of the
    # extended state and says so with a trace: the one complaint that is not looked for.
    seen = "uname -r; echo CPUS:$(nproc); grep MemTotal /proc/meminfo; dmesg | grep -iE 'oops|BUG:|lockup|stall|ACPI.*error'; true"
    with Guest(*linux(flavour, script(seen), cpus=cpus, memory=memory, **options)) as guest:
        status = guest.wait(120)
        text = guest.text()
    if status != 0 or "VIREO-EXIT:0" not in text:
        raise Failure(f"status {status}:\n{text[-3000:]}")
    if f"CPUS:{cpus}\r" not in text:
        raise Failure(f"not {cpus} vCPUs:\n{text[-1500:]}")
    if re.search(r"oops|BUG:|lockup|stall|ACPI.*error", text, re.IGNORECASE):
        raise Failure(f"the kernel complained:\n{text[-3000:]}")
    total = int(re.search(r"MemTotal:\s+(\d+) kB", text)[1])
    if total < low:
        raise Failure(f"only {total} KiB of {memory}")
    return total


@case()
def boots_with_1_vcpu_and_80_mib():
    """The least that Debian's cloud kernel runs in: with 72 MiB it panics for want of memory, under QEMU too."""
    boots(1, "80M", low=20 * 1024)


@case(long=True)
def boots_with_2_vcpus_and_1_gib():
    boots(2, "1G", low=900 * 1024)


@case()
def boots_with_4_vcpus():
    boots(4, "256M")


@case()
def boots_with_more_than_4_gib():
    boots(2, "6G", low=5700 * 1024)


@case()
def boots_the_generic_kernel():
    boots(2, "256M", flavour="generic")


@case()
def boots_an_elf_kernel_by_pvh():
    with Guest("--kernel", artefact("vmlinux-cloud"), "--initrd", artefact("initrd-cloud"), "--append",
               "console=ttyS0 panic=-1 " + script("echo PVH"), "--memory", "256M") as guest:
        status = guest.wait(120)
        if status != 0 or "VIREO-EXIT:0" not in guest.text():
            raise Failure(f"status {status}:\n{guest.text()[-2000:]}")


def sipi_elf(processors):
    """An ELF kernel (PVH) whose boot processor starts all others at once and ends the machine, with status 33 by port 0xF4,
    when each has counted itself."""
    entry, ap_at, counter = 0x100000, 0x8000, 0x7000
    # xor ax, ax; mov ds, ax; lock inc dword [counter]; cli; hlt; jmp back to the hlt: 16-bit code
    ap = bytes.fromhex("31c08ed8f066ff06") + struct.pack("<H", counter) + bytes.fromhex("faf4ebfd")

    def store(address, value):  # mov dword [address], value
        return b"\xc7\x05" + struct.pack("<II", address, value)

    compare = b"\x81\x3d" + struct.pack("<II", counter, processors - 1)  # cmp dword [counter], processors - 1
    back = -(len(compare) + 4) & 0xFF
    head = store(counter, 0) + store(0xFEE000F0, 0x1FF)  # local APIC on
    head += store(0xFEE00300, 0x000C4500)  # INIT to all but this one (SDM volume 3, 11.6.1)
    head += bytes.fromhex("b900000100e2fe")  # mov ecx, 65536; loop to itself
    head += store(0xFEE00300, 0x000C4600 | ap_at >> 12)  # SIPI
    head += compare + b"\xf3\x90" + b"\x72" + bytes([back])  # pause; jb to the comparison
    head += bytes.fromhex("b01066baf400eef4")  # mov al, 16; mov dx, 0xF4; out dx, al; hlt
    copy_bytes = 17
    # mov esi, ap; mov edi, ap_at; mov ecx, length; rep movsb
    copy = b"\xbe" + struct.pack("<I", entry + copy_bytes + len(head)) + b"\xbf" + struct.pack("<I", ap_at)
    copy += b"\xb9" + struct.pack("<I", len(ap)) + b"\xf3\xa4"
    code = copy + head + ap
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 4096, entry, entry, len(code), len(code), 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 64 + 2 * 56, 0, 0, len(note), len(note), 4)
    return (elf + load + notes + note).ljust(4096, b"\0") + code


@case(kvm=True)
def each_of_255_vcpus_runs():
    with tempfile.TemporaryDirectory() as folder:
        elf = pathlib.Path(folder, "sipi.elf")
        for processors in (1, 2, 255):
            elf.write_bytes(sipi_elf(processors))
            with Guest("--kernel", elf, "--accel", "kvm", "--cpus", processors, "--memory", "64M", "--debug-exit",
                       "0xf4") as guest:
                need(guest.wait(60), 33, guest)


@case(long=True, kvm=True)
def huge_pages_back_a_guest():
    pages = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    (pages / "nr_hugepages").write_text("72\n")
    try:
        free = int((pages / "free_hugepages").read_text())
        with Guest(*linux("cloud", memory="128M,hugepages=on")) as guest:
            guest.shell()
            left = int((pages / "free_hugepages").read_text())
            reserved = int((pages / "resv_hugepages").read_text())
            if free - left + reserved != 64:
                raise Failure(f"{free} huge pages free before, {left} with the guest, {reserved} of them reserved")
            guest.send("poweroff -f\n")
            need(guest.wait(), 0, guest)
        if int((pages / "free_hugepages").read_text()) != free:
            raise Failure("huge pages are not given back")
        refused([*linux("cloud", memory="256M,hugepages=on"), "--accel", "kvm"], "128 huge pages of 2 MiB", "nr_hugepages")
    finally:
        (pages / "nr_hugepages").write_text("0\n")


@case(long=True, kvm=True)
def ksm_merges_equal_pages_of_two_guests():
    ksm = pathlib.Path("/sys/kernel/mm/ksm")
    (ksm / "pages_to_scan").write_text("20000\n")
    (ksm / "sleep_millisecs").write_text("20\n")
    (ksm / "run").write_text("1\n")
    try:
        args = linux("cloud", "nokaslr", memory="128M,mergeable=on")
        with Guest(*args) as one, Guest(*args) as two:
            one.shell()
            two.shell()
            end = time.monotonic() + 240
            # The kernel's own code and data alone are some 5000 pages.
            while int((ksm / "pages_sharing").read_text()) < 5000:
                if time.monotonic() > end:
                    raise Failure(f"only {(ksm / 'pages_sharing').read_text().strip()} pages are shared")
                time.sleep(1)
            print(f"# {(ksm / 'pages_sharing').read_text().strip()} pages are shared")
            one.command("dmesg | tail -1")
            two.command("dmesg | tail -1")
    finally:
        (ksm / "run").write_text("2\n")


class Root:
    """A private copy of a Debian root."""

    def __init__(self, name="root-small"):
        self.name = name

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vireo-root-", dir=os.environ.get("VIREO_TEST_DIR"))
        self.path = pathlib.Path(self.folder.name, "root.img")
        subprocess.run(["cp", "--sparse=always", artefact(self.name), str(self.path)], check=True)
        self.path.chmod(0o644)
        return self.path

    def __exit__(self, *exc):
        self.folder.cleanup()


def debian(disk, *more, **options):
    """The arguments of a machine with the Debian root on virtio-blk."""
    settings = {"cpus": 2, "memory": "512M", "disk": f"path={disk}", **options}
    return linux("cloud", "root=/dev/vda rw quiet", **settings) + list(more)


def need(status, wanted, guest):
    if status != wanted:
        raise Failure(f"status {status} instead of {wanted}:\n{guest.text()[-2000:]}")


@case()
def debian_reaches_its_login_and_the_power_button_ends_it():
    with Root() as disk, Guest(*debian(disk), qmp=True) as guest:
        guest.login()
        state = guest.command("systemctl is-system-running --wait || true").strip()
        if state != "running":
            raise Failure(f"systemd says {state!r}:\n" + guest.command("systemctl --failed --no-pager; true"))
        guest.qmp.execute("system_powerdown")
        guest.qmp.event("POWERDOWN")
        if guest.qmp.event("SHUTDOWN", 90)["data"] != {"guest": True, "reason": "guest-shutdown"}:
            raise Failure("SHUTDOWN does not say that the guest did it")
        need(guest.wait(), 0, guest)


@case()
def reboot_and_reset_from_both_sides():
    with Guest(*linux("cloud", cpus=2, memory="256M"), qmp=True) as guest:
        guest.expect("BusyBox v", 60)
        guest.expect("# ", 60)
        guest.send("reboot -f\n")
        if not guest.qmp.event("RESET")["data"]["guest"]:
            raise Failure("RESET does not say that the guest did it")
        guest.expect("BusyBox v", 60)
        guest.qmp.execute("system_reset")
        if guest.qmp.event("RESET")["data"]["guest"]:
            raise Failure("RESET says that the guest did it")
        guest.expect("BusyBox v", 60)
        guest.expect("# ", 60)
        guest.send("poweroff -f\n")
        need(guest.wait(), 0, guest)


@case()
def no_reboot_ends_where_the_guest_restarts():
    with Guest(*linux("cloud", script("reboot -f"), cpus=1, memory="128M"), "--no-reboot") as guest:
        need(guest.wait(60), 0, guest)
        if guest.text().count("Restarting system") != 1:
            raise Failure("it restarted")


@case()
def a_triple_fault_is_a_reset():
    with Guest(*linux("cloud", "reboot=t " + script("reboot -f"), cpus=1, memory="128M"), "--no-reboot") as guest:
        need(guest.wait(60), 0, guest)


@case()
def a_guest_panic_is_reported():
    with Guest(*linux("cloud", cpus=1, memory="128M"), qmp=True) as guest:
        guest.expect("# ", 60)
        guest.send("modprobe pvpanic-mmio 2>/dev/null; echo c > /proc/sysrq-trigger\n")
        guest.qmp.event("GUEST_PANICKED")
        need(guest.wait(60), 3, guest)


@case()
def stop_freezes_and_cont_resumes():
    loop = "while :; do echo UP:$(cut -d' ' -f1 /proc/uptime); usleep 200000; done"
    with Guest(*linux("cloud", script(loop), cpus=2, memory="256M"), qmp=True) as guest:
        guest.expect(r"UP:\d", 60)
        guest.qmp.execute("stop")
        guest.qmp.event("STOP")
        if guest.qmp.execute("query-status")["status"] != "paused":
            raise Failure("not paused")
        deadline = time.monotonic() + 25
        try:
            # What was printed before the stop arrives; then silence for longer than the soft-lockup watchdog waits.
            while True:
                guest.expect(r"UP:[0-9.]+\r\n", 2)
        except Failure:
            before = float(re.findall(rb"UP:([0-9.]+)\r\n", guest.output)[-1])
        time.sleep(max(0, deadline - time.monotonic()))
        guest.qmp.execute("cont")
        guest.qmp.event("RESUME")
        after = float(guest.expect(r"UP:([0-9.]+)\r\n", 20)[1])
        for _ in range(10):
            guest.expect(r"UP:([0-9.]+)\r\n", 20)
        if after - before > 5:
            raise Failure(f"the guest's clock went on while it was stopped: {before} to {after}")
        if re.search(rb"lockup|rcu.*stall|clocksource.*unstable", guest.output):
            raise Failure(guest.text()[-2000:])


def survives_kill(megabytes):
    with tempfile.TemporaryDirectory(prefix="vireo-kill-", dir=os.environ.get("VIREO_TEST_DIR")) as folder:
        disk = pathlib.Path(folder, "data.img")
        with open(disk, "wb") as f:
            f.truncate((megabytes + 64) << 20)
        write = (f"dd if=/dev/urandom of=/tmp/seed bs=1M count=1 2>/dev/null; md5sum < /tmp/seed; "
                 f"for i in $(seq {megabytes}); do cat /tmp/seed; done | dd of=/dev/vda bs=1M conv=fsync 2>/dev/null; "
                 "echo WRITTEN:$(md5sum < /tmp/seed | cut -d' ' -f1); sleep 1000")
        with Guest(*linux("cloud", script(write), cpus=2, memory="256M", disk=f"path={disk}")) as guest:
            seed = guest.expect(r"WRITTEN:([0-9a-f]{32})", 300)[1].decode()
            guest.process.send_signal(signal.SIGKILL)
        whole = hashlib.md5()
        with open(disk, "rb") as f:
            for i in range(megabytes):
                block = f.read(1 << 20)
                if hashlib.md5(block).hexdigest() != seed:
                    raise Failure(f"megabyte {i} differs on the host")
                whole.update(block)
        read = f"echo READ:$(dd if=/dev/vda bs=1M count={megabytes} 2>/dev/null | md5sum | cut -d' ' -f1)"
        with Guest(*linux("cloud", script(read), cpus=2, memory="256M", disk=f"path={disk},readonly=on")) as guest:
            got = guest.expect(r"READ:([0-9a-f]{32})", 300)[1].decode()
            if got != whole.hexdigest():
                raise Failure(f"the guest reads {got}, the host {whole.hexdigest()}")
            need(guest.wait(), 0, guest)


@case()
def what_was_synced_survives_kill_9():
    survives_kill(128)


@case(long=True)
def one_gib_synced_survives_kill_9():
    survives_kill(1024)


def image(*words):
    """`vireo image`; its output."""
    done = subprocess.run([str(BUILD / "vireo"), "image", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"vireo image {' '.join(map(str, words))}: status {done.returncode}:\n{done.stdout}")
    return done.stdout


@case(long=True)
def debian_on_a_qcow2_overlay_of_a_compressed_base():
    """Twice, with a snapshot between: what the first run wrote is there in the second, and gone when the snapshot is applied."""
    with Root() as disk:
        base, overlay = disk.with_name("base.qcow2"), disk.with_name("overlay.qcow2")
        image("convert", "-f", "raw", "-O", "qcow2", "-c", disk, base)
        disk.unlink()
        before = hashlib.md5(base.read_bytes()).hexdigest()
        image("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", overlay)
        image("snapshot", "-c", "fresh", overlay)
        for turn in ("written", "there", "gone"):
            if turn == "gone":
                image("snapshot", "-a", "fresh", overlay)
            with Guest(*debian(f"{overlay},format=qcow2,iothread=on"), qmp=True) as guest:
                guest.login()
                if turn == "written":
                    guest.command("dd if=/dev/urandom of=/root/file bs=1M count=24; md5sum /root/file >/root/sum; sync", 120)
                state = guest.command("cd /root; ls; test -e file && md5sum -c sum; true")
                if ("file: OK" in state) != (turn != "gone"):
                    raise Failure(f"{turn}: {state}")
                guest.qmp.execute("system_powerdown")
                need(guest.wait(90), 0, guest)
            image("check", "-f", "qcow2", overlay)
        if hashlib.md5(base.read_bytes()).hexdigest() != before:
            raise Failure("the base was written to")


@case(long=True)
def what_was_synced_to_qcow2_survives_kill_9():
    """While the guest goes on writing and flushing: nothing synced is lost, nothing is damaged, and a guest reads it."""
    megabytes = 24
    with tempfile.TemporaryDirectory(prefix="vireo-kill-", dir=os.environ.get("VIREO_TEST_DIR")) as folder:
        disk, copy = pathlib.Path(folder, "data.qcow2"), pathlib.Path(folder, "copy.raw")
        image("create", "-q", "-f", "qcow2", disk.with_name("base.qcow2"), f"{megabytes + 16}M")
        image("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", disk)
        write = (f"dd if=/dev/urandom of=/tmp/seed bs=1M count=1 2>/dev/null; "
                 f"for i in $(seq {megabytes}); do cat /tmp/seed; done | dd of=/dev/vda bs=1M conv=fsync 2>/dev/null; "
                 "echo WRITTEN:$(md5sum < /tmp/seed | cut -d' ' -f1); while :; do "
                 f"dd if=/dev/urandom of=/dev/vda bs=64k seek={megabytes * 16} count=200 conv=fsync 2>/dev/null; echo AGAIN; done")
        with Guest(*linux("cloud", script(write), cpus=2, memory="256M", disk=f"path={disk},format=qcow2")) as guest:
            seed = guest.expect(r"WRITTEN:([0-9a-f]{32})", 300)[1].decode()
            guest.expect("AGAIN", 300)
            guest.process.send_signal(signal.SIGKILL)
            guest.process.wait()
        image("check", "-f", "qcow2", "-r", "leaks", disk)
        image("convert", "-f", "qcow2", "-O", "raw", disk, copy)
        data = copy.read_bytes()[:megabytes << 20]
        for i in range(megabytes):
            if hashlib.md5(data[i << 20:(i + 1) << 20]).hexdigest() != seed:
                raise Failure(f"megabyte {i} differs on the host")
        read = f"echo READ:$(dd if=/dev/vda bs=1M count={megabytes} 2>/dev/null | md5sum | cut -d' ' -f1)"
        with Guest(*linux("cloud", script(read), cpus=2, memory="256M", disk=f"path={disk},format=qcow2,readonly=on")) as guest:
            if guest.expect(r"READ:([0-9a-f]{32})", 300)[1].decode() != hashlib.md5(data).hexdigest():
                raise Failure("the guest reads something else")
            need(guest.wait(), 0, guest)


@case(long=True)
def the_balloon_gives_memory_back():
    with Guest(*linux("cloud", cpus=1, memory="512M", balloon="on,free-page-reporting=off"), qmp=True) as guest:
        guest.shell()
        guest.command("mkdir -p /m && mount -t tmpfs -o size=90% m /m && dd if=/dev/urandom of=/m/f bs=1M count=300 && rm /m/f", 120)
        full = guest.rss_kib()[1]
        guest.qmp.execute("balloon", value=192 << 20)
        while guest.qmp.event("BALLOON_CHANGE", 60)["data"]["actual"] > 192 << 20:
            pass
        small = guest.rss_kib()[1]
        if guest.qmp.execute("query-balloon")["actual"] != 192 << 20:
            raise Failure("query-balloon differs")
        if small > 200 * 1024 or full - small < 150 * 1024:
            raise Failure(f"guest RAM resident: {full} KiB, {small} KiB with the balloon")
        guest.qmp.execute("balloon", value=512 << 20)
        while guest.qmp.event("BALLOON_CHANGE", 60)["data"]["actual"] < 512 << 20:
            pass
        guest.command("dd if=/dev/zero of=/m/g bs=1M count=300", 60)
        print(f"# guest RAM resident: {full} KiB, {small} KiB with the balloon at 192 MiB")


@case(long=True)
def free_pages_are_reported():
    with Guest(*linux("cloud", cpus=1, memory="512M")) as guest:
        guest.shell()
        guest.command("mkdir -p /m && mount -t tmpfs -o size=90% m /m && dd if=/dev/urandom of=/m/f bs=1M count=300", 120)
        full = guest.rss_kib()[1]
        guest.command("rm /m/f")
        end = time.monotonic() + 60
        while guest.rss_kib()[1] > full - 200 * 1024:
            if time.monotonic() > end:
                raise Failure(f"guest RAM resident stays at {guest.rss_kib()[1]} KiB of {full} KiB")
            guest.command("sleep 1")


class Server:
    """An HTTP server of the host with one page."""

    PAGE = b"from the host\n"

    def __init__(self, address="127.0.0.1"):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(Server.PAGE)))
                self.end_headers()
                self.wfile.write(Server.PAGE)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@case(long=True)
def http_over_user_mode_both_ways():
    page_server = Server()
    with Root() as disk, Guest(*debian(disk, net="user,hostfwd=tcp:127.0.0.1:8022-:80")) as guest:
        guest.login()
        guest.command("/lib/systemd/systemd-networkd-wait-online --any --timeout=60", 90)
        gateway = guest.command("ip -4 route show default | awk '{print $3; exit}'").strip()
        page = guest.command(f"curl -sS --max-time 30 http://{gateway}:{page_server.port}/", 60)
        if page != Server.PAGE.decode():
            raise Failure(f"the guest got {page!r}")
        server = ("use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die; "
                  "$| = 1; print \"LISTENS\\n\"; "
                  "while ($c = $s->accept) { $l = <$c>; print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nfrom the guest\\n\"; close $c }")
        guest.send(f"perl -e '{server}' &\n")
        guest.expect("LISTENS\r\n")
        got = subprocess.run(["curl", "-sS", "--max-time", "60", "http://127.0.0.1:8022/"], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, check=False).stdout
        if "from the guest" not in got:
            raise Failure(f"the host got {got!r}")


def iperf(extra):
    """iperf3 both ways between the host and a guest on a tap."""
    name = "vtap0"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "10.99.0.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        server = subprocess.Popen(["iperf3", "-s", "-B", "10.99.0.1"], stdout=subprocess.DEVNULL)
        try:
            with Root() as disk, Guest(*debian(disk, net=f"tap,ifname={name}{extra}")) as guest:
                guest.login()
                device = guest.command("ls /sys/class/net | grep -v lo").split()[0]
                guest.command(f"ip link set {device} up && ip addr add 10.99.0.2/24 dev {device}")
                for way in ("", "-R"):
                    text = guest.command(f"iperf3 -c 10.99.0.1 -t 3 {way} --connect-timeout 5000 | tail -4", 60)
                    rate = re.search(r"([0-9.]+ [GM]bits/sec).*receiver", text)
                    if not rate:
                        raise Failure(text)
                    print(f"# iperf3 {way or '  '} {rate[1]}")
        finally:
            server.kill()
            server.wait()
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)


@case(long=True)
def iperf3_over_tap():
    iperf("")


@case(long=True, kvm=True)
def iperf3_over_vhost_net():
    iperf(",vhost=on")


@case()
def bad_input_gets_status_2_and_a_message():
    """What a user gets wrong: status 2 and a message that names it."""
    with tempfile.TemporaryDirectory() as folder:
        small = pathlib.Path(folder, "odd.img")
        small.write_bytes(b"x" * 1000)
        empty = pathlib.Path(folder, "empty")
        empty.write_bytes(b"")
        kernel = artefact("kernel-cloud")
        cut = pathlib.Path(folder, "cut")
        cut.write_bytes(pathlib.Path(kernel).read_bytes()[:100000])
        big = pathlib.Path(folder, "big")
        with open(big, "wb") as f:
            f.truncate(200 << 20)
        good = ["--kernel", kernel, "--memory", "128M", "--serial", "none"]
        bad = [
            (["--kernel", "/no/such/kernel"], "/no/such/kernel"),
            (["--kernel", empty], str(empty)),
            (["--kernel", cut], str(cut)),
            (["--kernel", shutil.which("python3")], "python3"),
            ([*good, "--initrd", big], str(big)),
            ([*good, "--memory", "0"], "memory"),
            ([*good, "--memory", "100000001b"], "memory"),
            ([*good, "--memory", "100000T"], "memory"),
            ([*good, "--cpus", "0"], "cpus"),
            ([*good, "--cpus", "256"], "cpus"),
            ([*good, "--disk", "path=/no/such/disk"], "/no/such/disk"),
            ([*good, "--disk", f"path={folder}"], folder),
            ([*good, "--disk", f"path={small}"], "512"),
            ([*good, "--net", "tap,ifname=nosuchtap0"], "nosuchtap0"),
            ([*good, "--net", "null,mac=52:54:00:00:00:01", "--net", "null,mac=52:54:00:00:00:01"],
             "52:54:00:00:00:01"),
            ([*good, "--disk", f"path={big}", "--disk", f"path={big}"], str(big)),
            ([*good, "--memroy", "1G"], "--memory"),
        ]
        for args, word in bad:
            refused([*args, "--accel", "kvm"], word)


def refused(args, *words, **how):
    """The machine ends with status 2 and a message that has all of the words."""
    with Guest(*args, **how) as guest:
        status = guest.wait(20)
        missing = [w for w in words if w not in guest.text()]
        if status != 2 or missing:
            raise Failure(f"{args}: status {status}, message {guest.text()!r} without {missing}")


@case(kvm=True)
def what_is_missing_or_forbidden_is_named():
    """As somebody without rights; without /dev/kvm; without passt; with a control socket that another machine has."""
    good = ["--memory", "64M", "--serial", "none"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(VMM)]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        disk = pathlib.Path(folder, "mine.img")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        disk.chmod(0o600)
        refused([*good, "--accel", "null", "--disk", f"path={disk}"], str(disk), "not permitted", program=nobody)
        kernel = shutil.copy(artefact("kernel-cloud"), folder)
        os.chmod(kernel, 0o644)
        with_kvm = [*good, "--accel", "kvm", "--kernel", kernel]
        before = os.stat("/dev/kvm")
        try:
            os.chown("/dev/kvm", 0, grp.getgrnam("tty").gr_gid)
            os.chmod("/dev/kvm", 0o660)
            refused(with_kvm, "/dev/kvm", "group 'tty'", program=nobody)
            os.chmod("/dev/kvm", 0o600)
            refused(with_kvm, "/dev/kvm", "owner", program=nobody)
        finally:
            os.chown("/dev/kvm", before.st_uid, before.st_gid)
            os.chmod("/dev/kvm", stat.S_IMODE(before.st_mode))
        # A mount namespace whose /dev has next to nothing.
        bare = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs dev /dev && mknod /dev/null c 1 3 && exec \"$@\"", "sh",
                str(VMM)]
        refused(with_kvm, "/dev/kvm is not there", "kvm-amd", program=bare)
        refused([*good, "--accel", "null", "--net", "user"], "passt", "install", env={**os.environ, "PATH": "/nonexistent"})
        socket_path = pathlib.Path(folder, "control")
        with Guest(*good, "--accel", "null", "--paused", "--qmp", socket_path):
            Qmp(socket_path).close()
            refused([*good, "--accel", "null", "--qmp", socket_path], str(socket_path), "in use")
            Qmp(socket_path).close()
        if disk.stat().st_size != 1 << 20 or disk.read_bytes().strip(b"\0"):
            raise Failure("a disk that was refused is not what it was")


@case()
def a_disk_in_use_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        disk = pathlib.Path(folder, "d.img")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        args = linux("cloud", script("echo HERE; sleep 100"), memory="128M", disk=f"path={disk}")
        with Guest(*args) as first:
            first.expect("HERE", 60)
            with Guest(*args) as second:
                need(second.wait(20), 2, second)
                if str(disk) not in second.text():
                    raise Failure(second.text())


@case()
def the_qmp_library_of_qemu_drives_a_machine():
    with Guest("--accel", "null", "--memory", "32M", "--serial", "none", qmp=True) as guest:
        got = subprocess.run([sys.executable, qmp_library.__file__, qmp_library.make(),
                              guest.qmp_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        need(guest.wait(), 0, guest)
    if got.returncode != 0:
        raise Failure(got.stdout)
    seen = json.loads(got.stdout.splitlines()[-1])
    answers = seen["answers"]
    if answers["query-status"]["status"] != "running" or len(answers["query-cpus-fast"]) != 1 or \
            answers["query-block"] != [] or {"name": "balloon"} not in answers["query-commands"] or \
            answers["query-balloon"] != "DeviceNotActive" or answers["no-such-command"] != "CommandNotFound":
        raise Failure(f"the answers are not what they should be: {answers}")
    if seen["events"] != ["STOP", "RESUME", "RESET", "SHUTDOWN"]:
        raise Failure(f"the events are {seen['events']}")


IDLE = ("--accel", "null", "--paused", "--memory", "32M")


def restored(terminal, status, *wanted):
    if status not in wanted:
        raise Failure(f"status {status} instead of {wanted}:\n{terminal.text()}")
    if not terminal.is_as_before():
        raise Failure(f"the terminal is not as before (status {status})")


@case()
def the_escape_key_ends_the_machine_and_the_terminal_is_as_before():
    with Terminal(*IDLE) as terminal:
        wait_raw(terminal)
        terminal.type("\x01x")
        restored(terminal, terminal.wait(), 0)


@case()
def the_terminal_is_as_before_after_every_end():
    """Signals that ask, signals that crash, and SIGKILL, which nothing inside the machine can see coming."""
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL):
        with Terminal(*IDLE) as terminal:
            wait_raw(terminal)
            os.kill(terminal.vmm(), sig)
            restored(terminal, terminal.wait(), 128 + sig, -sig)


@case()
def a_shell_on_the_terminal_sees_its_size():
    """The virtio console on a terminal: typed commands, a resize, power-off."""
    args = linux("cloud", "console=hvc0", memory="256M", serial="none", console="stdio")
    with Terminal(*args, rows=30, columns=100) as terminal:
        terminal.expect("# ", 120)
        if not terminal.is_raw():
            raise Failure("the terminal is not raw")
        # Linux forgets a size that it is told before the terminal has been opened, as it was here.
        terminal.resize(41, 123)
        end = time.monotonic() + 60
        while True:
            terminal.type("echo SIZE-$(stty size | tr ' ' x)\r")
            if terminal.expect(r"SIZE-(\d*x?\d*)\r")[1] == b"41x123":
                break
            if time.monotonic() > end:
                raise Failure(f"the guest does not see the new size:\n{terminal.text()}")
        terminal.type("poweroff -f\r")
        restored(terminal, terminal.wait(60), 0)


def works(pieces=None, **options):
    """Boots the Debian root with compilers and interpreters and does the pieces of work.py, all or those named."""
    with Root("root-work") as disk, Guest(*debian(disk, memory="1536M", **options)) as guest:
        guest.login()
        do_pieces(guest, pieces)
        guest.send("systemctl poweroff\n")
        need(guest.wait(120), 0, guest)


@case(long=True, soft=True)
def work_is_done_right_on_1_vcpu():
    works(cpus=1)


@case(long=True, soft=True)
def work_is_done_right_on_4_vcpus():
    works(cpus=4)


@case(long=True, soft=True)
def the_newest_kernel_of_backports_boots():
    boots(2, "512M", flavour="backports")

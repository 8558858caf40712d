# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own QMP client library (package qemu.qmp, out of QEMU's Debian source package) as a client of vireo-vmm."""

import asyncio
import contextlib
import json
import pathlib
import sys
import tempfile

import debian

SOURCE = "qemu"


def make():
    """The folder for sys.path that holds the package qemu."""
    known = debian.facts(["qemu-system-x86"])

    def build(folder):
        debian.need("apt-get", "apt")
        with tempfile.TemporaryDirectory(dir=folder) as work:
            pathlib.Path(work, "lists/partial").mkdir(parents=True)
            pathlib.Path(work, "s.list").write_text("".join(f"deb-src {line.removeprefix('deb ')}\n" for line in known["sources"]),
                                                    encoding="ascii")
            apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={work}/s.list", "-o", "Dir::Etc::sourceparts=/dev/null",
                   "-o", f"Dir::State::lists={work}/lists", "-o", "APT::Sandbox::User=root"]
            debian.run([*apt, "update"])
            debian.run([*apt, "source", "--download-only", SOURCE], cwd=work)
            archive = next(pathlib.Path(work).glob("*.orig.tar.*"))
            debian.run(["tar", "-xf", str(archive), "-C", str(folder), "--strip-components=2", "--wildcards",
                        "*/python/qemu/qmp"])

    return debian.cached("qemu-python", debian.digest(known, pathlib.Path(__file__)), build)


async def drive(path):
    """Greeting, queries, stop and cont, errors, reset, quit; (what was answered, the names of the events)."""
    from qemu.qmp import EventListener, ExecuteError, QMPClient  # where make() put it

    answers = {}
    client = QMPClient("test")
    listener = EventListener()
    with client.listen(listener):
        await client.connect(path)
        for command in ("query-status", "stop", "query-cpus-fast", "query-block", "query-commands", "cont", "system_reset",
                        "query-balloon", "no-such-command"):
            try:
                answers[command] = await client.execute(command)
            except ExecuteError as why:
                answers[command] = why.error_class if hasattr(why, "error_class") else why.error.error.class_
        await client.execute("quit")
        with contextlib.suppress(asyncio.TimeoutError):
            while "SHUTDOWN" not in [e["event"] for e in listener.history]:
                await asyncio.wait_for(listener.get(), 10)
        events = [e["event"] for e in listener.history]
    with contextlib.suppress(EOFError):  # the machine has ended: what was asked for
        await client.disconnect()
    return answers, events


def main():
    sys.path.insert(0, sys.argv[1])
    answers, events = asyncio.run(drive(sys.argv[2]))
    print(json.dumps({"answers": answers, "events": events}))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test artefacts are made from: Debian packages, and a cache of what was built of them.

The package sources are those of this machine's apt configuration for its own release (main, updates,
security), so that a root made here has the same C library as the programs built here. An artefact lives
in CACHE/NAME-HASH, where HASH covers the sources, the package versions and the recipe's files; it is built
in a temporary folder, under a lock, and renamed into place, so a folder that exists is complete.

Inside the lab there are no package lists: there the facts written down by the last run outside are taken.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LISTS = "/var/lib/apt/lists"
KEEP = 3  # artefacts of one name that stay: several checkouts may share a cache


class Failure(Exception):
    """The reason why something cannot be built or run, for the person who asked."""


def say(text):
    print(f"vireo-tests: {text}", file=sys.stderr, flush=True)


def cache():
    """The cache folder, created when absent."""
    base = os.environ.get("VIREO_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "vireo")
    path = pathlib.Path(base).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def need(program, package):
    """Refuses early when a tool of the host is missing, naming the package that has it."""
    if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
        raise Failure(f"{program} is missing: apt-get install {package}")


def codename():
    with open("/etc/os-release", encoding="utf-8") as f:
        for line in f:
            key, _, value = line.strip().partition("=")
            if key == "VERSION_CODENAME":
                return value.strip('"')
    raise Failure("/etc/os-release has no VERSION_CODENAME: the tests' artefacts are made on Debian")


def _stanzas(path):
    """The deb822 paragraphs of a .sources file."""
    stanza, last = {}, None
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() + [""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, last = {}, None
        elif line[0].isspace() and last:
            stanza[last] += " " + line.strip()
        else:
            key, _, value = line.partition(":")
            last = key.strip().lower()
            stanza[last] = value.strip()


def sources():
    """One-line apt sources of this machine's own release, from its apt configuration."""
    release = codename()
    wanted = {release, f"{release}-updates", f"{release}-security"}
    lines = []
    for path in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        for s in _stanzas(path):
            if "deb" not in s.get("types", "").split() or s.get("enabled", "yes") == "no":
                continue
            key = s.get("signed-by", "")
            option = f"[signed-by={key}] " if key.startswith("/") else ""
            for suite in s.get("suites", "").split():
                if suite in wanted and "main" in s.get("components", "").split():
                    lines.append(f"deb {option}{s['uris'].split()[0]} {suite} main")
    for path in ["/etc/apt/sources.list"] + sorted(glob.glob("/etc/apt/sources.list.d/*.list")):
        if not os.path.exists(path):
            continue
        for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            head, _, rest = line.partition("]") if line.startswith("deb [") else ("deb", "", line[4:])
            words = rest.split()
            if line.startswith("deb ") and len(words) > 2 and words[1] in wanted and "main" in words[2:]:
                lines.append(f"{head + ']' if head != 'deb' else head} {words[0]} {words[1]} main")
    if not lines:
        raise Failure(f"apt's configuration names no source for Debian {release}")
    return lines


def _ask_apt(packages, options=()):
    answer = subprocess.run(["apt-cache", *options, "policy", *packages], check=True, text=True,
                            env={**os.environ, "LC_ALL": "C"}, stdout=subprocess.PIPE).stdout
    versions, name = {}, None
    for line in answer.splitlines():
        if line and not line[0].isspace():
            name = line.rstrip(":")
        elif line.strip().startswith("Candidate:"):
            versions[name] = line.split()[1]
    missing = [p for p in packages if versions.get(p, "(none)") == "(none)"]
    if missing:
        raise Failure(f"apt knows no package {', '.join(missing)}: run apt-get update")
    return versions


def backports():
    """Options that make apt see this release's backports and nothing else, from lists of their own, at most a day old."""
    home = cache() / "apt-backports"
    options = ["-o", f"Dir::Etc::SourceList={home}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={home}/lists", "-o", f"Dir::Cache={home}/cache", "-o", "APT::Sandbox::User=root"]
    if os.environ.get("VIREO_LAB"):
        return options
    with locked(cache() / ".lock-apt-backports"):
        done = home / "updated"
        if not done.exists() or time.time() - done.stat().st_mtime > 86400:
            for folder in ("lists/partial", "cache/archives/partial"):
                (home / folder).mkdir(parents=True, exist_ok=True)
            release = codename()
            lines = {line.replace(f" {release} ", f" {release}-backports ") for line in sources() if f" {release} " in line}
            (home / "sources.list").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
            run(["apt-get", *options, "-q", "update"])
            done.touch()
    return options


def facts(packages, options=()):
    """Sources and candidate versions of packages, kept in the cache for as long as apt's lists stay the same. options: of
    backports()."""
    folder = cache() / "apt-backports/lists" if options else LISTS
    lists = sorted(glob.glob(f"{folder}/*Release"))
    stamp = [[os.path.basename(p), os.stat(p).st_size, os.stat(p).st_mtime_ns] for p in lists]
    memo = cache() / f"apt-{digest(packages, 'backports' if options else '')}.json"
    if memo.exists():
        known = json.loads(memo.read_text())
        if known["stamp"] == stamp or not stamp:
            return known["facts"]
    if not stamp:
        raise Failure("there are no package lists here: run apt-get update")
    result = {"sources": sources(), "versions": _ask_apt(packages, options)}
    write_atomically(memo, json.dumps({"stamp": stamp, "facts": result}).encode())
    return result


def digest(*inputs):
    """A short hash over any mixture of file paths and JSON-able values."""
    h = hashlib.sha256()
    for i in inputs:
        h.update(i.read_bytes() if isinstance(i, pathlib.Path) else json.dumps(i, sort_keys=True).encode())
        h.update(b"\0")
    return h.hexdigest()[:12]


def write_atomically(path, data):
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(fd, "wb") as f:
        f.write(data)
    os.rename(name, path)


@contextlib.contextmanager
def locked(path):
    with open(path, "w", encoding="ascii") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def cached(name, key, build):
    """The folder CACHE/name-key; build(folder) fills it when it is absent. Many callers at once are fine."""
    path = cache() / f"{name}-{key}"
    if path.exists():
        with contextlib.suppress(OSError):  # the lab sees the cache read-only
            os.utime(path)
        return path
    if os.environ.get("VIREO_LAB"):
        raise Failure(f"{name} is not in the cache, and the lab cannot build: make it on the host first")
    with locked(cache() / f".lock-{name}"):
        if path.exists():
            return path
        for stale in cache().glob(f".build-{name}-*"):  # of a builder that was killed: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        say(f"building {path.name}")
        start = time.monotonic()
        work = pathlib.Path(tempfile.mkdtemp(dir=cache(), prefix=f".build-{name}-"))
        try:
            work.chmod(0o755)
            build(work)
            os.rename(work, path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        say(f"{path.name} built in {time.monotonic() - start:.1f} s")
        _prune(name, path)
    return path


def _prune(name, newest):
    """Removes all but the most recently used artefacts of this name, if unused for an hour."""
    old = [p for p in cache().glob(f"{name}-" + "[0-9a-f]" * 12) if p != newest]
    old.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for p in old[KEEP - 1:]:
        if time.time() - p.stat().st_mtime > 3600:
            shutil.rmtree(p, ignore_errors=True)


def leave_on_signals():
    """Makes INT, TERM and HUP leave through the context managers, with the shell's status for it."""
    def leave(number, _):
        raise SystemExit(128 + number)
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, leave)


def run(command, **kwargs):
    """Runs a build step quietly; when it fails, the end of what it said is the reason given."""
    with subprocess.Popen(["nice", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True, **kwargs) as p:
        try:
            said, _ = p.communicate()
        except BaseException:
            # Ended, not killed: mmdebstrap removes what it made. All of its processes, as a terminal would.
            os.killpg(p.pid, signal.SIGTERM)
            p.communicate()
            raise
    if p.returncode:
        tail = said.decode(errors="replace").splitlines()[-20:]
        raise Failure(f"{command[0]} failed with status {p.returncode}:\n" + "\n".join(tail))
    return said


def _apt_options():
    """What a private apt must know of this machine's: the way out, and tolerance for an old mirror."""
    dump = subprocess.run(["apt-config", "dump"], check=True, text=True, stdout=subprocess.PIPE).stdout
    wanted = ("Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::Check-Valid-Until ")
    return ["--aptopt=" + line.rstrip(";") for line in dump.splitlines() if line.startswith(wanted)]


# The image is made of a second view of the tree, which does not have the mounts that the build needs in it, and
# beside the tree; then it is moved inside, because `download` takes a path in there.
_IMAGE_HOOK = """set -eu
tree=$1
trap 'umount "$tree.view"; rmdir "$tree.view"; rm -f "$tree.img"' EXIT
trap 'exit 1' TERM
mkdir "$tree.view"
mount --bind "$tree" "$tree.view"
set -- "$tree.view" "$tree.img"
COMMAND
mv "$tree.img" "$tree/image"
"""


def bootstrap(known, packages, hooks, image_command, image):
    """Makes a Debian root in a temporary place, runs the hooks on it, and makes the file image of it.

    hooks are mmdebstrap's --customize-hook commands; image_command is shell text in which $1 is the tree and $2
    the image. Needs no root where the kernel allows user namespaces and newuidmap is there.
    """
    need("mmdebstrap", "mmdebstrap")
    hooks = [*hooks, _IMAGE_HOOK.replace("COMMAND", image_command), quote("download", "/image", image)]
    command = ["mmdebstrap", "--quiet", "--mode=auto", "--variant=minbase", "--format=null",
               "--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=force-unsafe-io",
               *[f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale", "info", "lintian")],
               # Packages with alternatives link manual pages there although none is installed.
               '--essential-hook=mkdir -p "$1/usr/share/man/man1"',
               *_apt_options(), "--include=" + ",".join(packages),
               *[f"--customize-hook={h.strip()}" for h in hooks], codename(), "-", *known["sources"]]
    env = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG", "LANGUAGE")}
    run(command, env={**env, "LC_ALL": "C.UTF-8"})
    run(["fallocate", "--dig-holes", str(image)])


def download_deb(package, folder, options=()):
    """Fetches one package with this machine's own apt into folder; returns the file's path."""
    env = {**os.environ, "LC_ALL": "C"}
    run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *options, "download", package], cwd=folder, env=env)
    found = glob.glob(f"{folder}/{package}_*.deb")
    if len(found) != 1:
        raise Failure(f"apt-get download {package} left {len(found)} packages")
    return found[0]


def quote(*words):
    return shlex.join(str(w) for w in words)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Work that people do, in a guest, with answers that are known: a package installed, a C project built, Python, SQLite, OpenSSL, Go,
Java. What the software CPU computes wrong shows here, far from the instruction that did it.

Each piece is a shell script and the answer that it must print; answers are computed on the host by other means.
"""

import contextlib
import hashlib
import io

from harness import Failure

FILE_MIB = 64  # of a file that leaves every cache


def pattern(mebibytes):
    """A chain of SHA-256 digests, one mebibyte of it, repeated: what the guest's Python makes too."""
    block = hashlib.sha256(b"vireo").digest()
    out = bytearray()
    while len(out) < 1 << 20:
        block = hashlib.sha256(block).digest()
        out += block
    return bytes(out) * mebibytes


PYTHON = """
import hashlib, json, math, zlib, struct, decimal, re
block, out = hashlib.sha256(b'vireo').digest(), bytearray()
while len(out) < 1 << 20:
    block = hashlib.sha256(block).digest()
    out += block
open('/tmp/block', 'wb').write(out)
primes = [n for n in range(2, 20000) if all(n % d for d in range(2, int(n ** 0.5) + 1))]
decimal.getcontext().prec = 60
answer = {
    'primes': len(primes), 'sum': sum(primes),
    'crc': zlib.crc32(bytes(out)), 'zlib': zlib.decompress(zlib.compress(bytes(out[:200000]), 9)) == bytes(out[:200000]),
    'fact': str(math.factorial(300) % (10 ** 9 + 7)), 'sqrt2': str(decimal.Decimal(2).sqrt()),
    'sin': [struct.pack('<d', math.sin(x / 7)).hex() for x in range(5)],
    'exp': [struct.pack('<d', math.exp(x / 3)).hex() for x in range(5)],
    'words': len(re.findall(r'[a-f]+', bytes(out).hex())),
    'sorted': hashlib.md5(b''.join(sorted(out[i:i + 8] for i in range(0, 1 << 18, 8)))).hexdigest(),
}
print(json.dumps(answer, sort_keys=True))
"""

C_MAIN = r"""
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "matrix.h"
static long counter;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *count(void *arg)
{
	for (int i = 0; i < 20000; i++) {
		pthread_mutex_lock(&lock);
		counter++;
		pthread_mutex_unlock(&lock);
		__atomic_fetch_add((long *)arg, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}
static int order(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}
int main(void)
{
	static int numbers[100000];
	unsigned seed = 1;
	long atomic = 0, sum = 0;
	pthread_t threads[4];
	for (int i = 0; i < 100000; i++)
		numbers[i] = (int)((seed = seed * 1103515245u + 12345u) >> 8);
	qsort(numbers, 100000, sizeof(int), order);
	for (int i = 0; i < 100000; i += 1000)
		sum += numbers[i];
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, count, &atomic);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %ld %ld %.6f %.3Lf\n", sum, counter, atomic, matrix_trace(64), 1.0L / 3.0L * 3e15L);
	return 0;
}
"""
C_MATRIX = r"""
#include "matrix.h"
double matrix_trace(int n)
{
	double a[n][n], trace = 0;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < n; j++)
			a[i][j] = (i * 7 + j * 13) % 17 / 4.0;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < n; j++)
			for (int k = 0; k < n; k++)
				if (i == j)
					trace += a[i][k] * a[k][j];
	return trace;
}
"""


def c_answer():
    seed, numbers = 1, []
    for _ in range(100000):
        seed = (seed * 1103515245 + 12345) & 0xFFFFFFFF
        numbers.append(seed >> 8)
    numbers.sort()
    a = [[(i * 7 + j * 13) % 17 / 4 for j in range(64)] for i in range(64)]
    trace = sum(a[i][k] * a[k][i] for i in range(64) for k in range(64))
    return f"{sum(numbers[::1000])} 80000 80000 {trace:.6f} 1000000000000000.000"


def heredoc(path, text):
    return f"cat >{path} <<'VIREO-END'\n{text.strip()}\nVIREO-END"


def c_project(flags):
    return "\n".join([
        "rm -rf /tmp/c && mkdir /tmp/c && cd /tmp/c",
        heredoc("main.c", C_MAIN), heredoc("matrix.c", C_MATRIX), heredoc("matrix.h", "double matrix_trace(int n);"),
        heredoc("Makefile", f"CFLAGS = {flags} -Wall -Werror -pthread\nmain: main.o matrix.o\nmain.o matrix.o: matrix.h"),
        "make -s && ./main"])


SQL = """
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  INSERT INTO t SELECT i, 'name' || (i * 7919 % 20011), i * 0.25 FROM n;
CREATE INDEX by_name ON t (name);
DELETE FROM t WHERE id % 7 = 0;
UPDATE t SET value = value + 1 WHERE name LIKE '%99%';
SELECT count(*), sum(id), printf('%.2f', sum(value)), min(name), max(name) FROM t;
PRAGMA integrity_check;
"""


def sql_answer():
    rows = {i: [f"name{i * 7919 % 20011}", i * 0.25] for i in range(1, 20001) if i % 7}
    for row in rows.values():
        if "99" in row[0]:
            row[1] += 1
    names = [row[0] for row in rows.values()]
    return f"{len(rows)}|{sum(rows)}|{sum(r[1] for r in rows.values()):.2f}|{min(names)}|{max(names)}\nok"


GO = """
package main
import ("crypto/sha256"; "fmt"; "sync")
func main() {
	var wg sync.WaitGroup
	sums := make([]int, 8)
	for g := range sums { wg.Add(1); go func(g int) { defer wg.Done(); for i := 0; i < 100000; i++ { sums[g] += i % (g + 1) } }(g) }
	wg.Wait()
	fmt.Printf("hello from go %v %x\\n", sums, sha256.Sum256([]byte("vireo")))
}
"""
JAVA = """
import java.util.*; import java.util.stream.*;
public class Hello { public static void main(String[] a) {
  long sum = IntStream.range(0, 1000000).filter(i -> i % 3 == 0).asLongStream().sum();
  Map<String, Integer> m = new TreeMap<>(); for (int i = 0; i < 50000; i++) m.merge("k" + i % 100, i, Integer::sum);
  System.out.println("hello from java " + sum + " " + m.get("k42") + " " + Math.floorMod(Arrays.hashCode(new int[]{1, 2, 3}), 1000));
} }
"""


def go_answer():
    sums = [sum(i % (g + 1) for i in range(100000)) for g in range(8)]
    return f"hello from go [{' '.join(map(str, sums))}] {hashlib.sha256(b'vireo').hexdigest()}"


def java_answer():
    total = sum(range(0, 1000000, 3))
    return f"hello from java {total} {sum(range(42, 50000, 100))} {30817 % 1000}"


def python_answer():
    """By this host's own Python: other hardware, the same program."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(PYTHON.replace("/tmp/block", "/dev/null"), "answer", "exec"), {})  # noqa: S102
    return out.getvalue().strip()


def openssl_check():
    """Round trips of ciphers and signatures, and digests that are known."""
    block = pattern(1)
    lines = ["md5sum </tmp/block | cut -c1-32\n", "openssl dgst -sha256 -r /tmp/block | cut -c1-64\n",
             "openssl dgst -sha512 -r /tmp/block | cut -c1-128\n", "openssl dgst -blake2b512 -r /tmp/block | cut -c1-128\n"]
    answers = [hashlib.md5(block).hexdigest(), hashlib.sha256(block).hexdigest(), hashlib.sha512(block).hexdigest(),
               hashlib.blake2b(block).hexdigest()]
    for cipher in ("aes-128-ctr", "aes-256-cbc", "chacha20", "camellia-128-cbc"):
        lines.append(f"openssl enc -{cipher} -pbkdf2 -k word -in /tmp/block -out /tmp/enc && "
                     f"openssl enc -d -{cipher} -pbkdf2 -k word -in /tmp/enc | cmp - /tmp/block && echo {cipher}\n")
        answers.append(cipher)
    lines.append("openssl ecparam -genkey -name prime256v1 -out /tmp/k 2>/dev/null && openssl dgst -sha256 -sign /tmp/k -out /tmp/s "
                 "/tmp/block && openssl ec -in /tmp/k -pubout -out /tmp/p 2>/dev/null && "
                 "openssl dgst -sha256 -verify /tmp/p -signature /tmp/s /tmp/block\n")
    answers.append("Verified OK")
    lines.append("openssl genrsa -out /tmp/r 2048 2>/dev/null && openssl rsa -in /tmp/r -check -noout 2>/dev/null\n")
    answers.append("RSA key ok")
    return "".join(lines), "\n".join(answers)


DEB = """mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial; rm -rf /tmp/d && mkdir -p /tmp/d/DEBIAN /tmp/d/usr/bin && printf 'Package: vireo-hello\\nVersion: 1\\nArchitecture: all\\n\
Maintainer: nobody <nobody@localhost>\\nDescription: a test\\n' >/tmp/d/DEBIAN/control && printf '#!/bin/sh\\necho installed\\n' \
>/tmp/d/usr/bin/vireo-hello && chmod 755 /tmp/d/usr/bin/vireo-hello && dpkg-deb -b /tmp/d /tmp/h.deb >/dev/null && \
apt-get -qq -y install /tmp/h.deb >/tmp/apt.log 2>&1 && vireo-hello && apt-get -qq -y remove vireo-hello >/dev/null 2>&1 && \
[ ! -e /usr/bin/vireo-hello ] && dpkg --audit && echo removed"""

PIECES = [
    ("python", heredoc("/tmp/p.py", PYTHON) + "\npython3 /tmp/p.py", python_answer, 240),
    ("openssl", openssl_check()[0], lambda: openssl_check()[1], 240),
    ("gcc -O0", c_project("-O0"), c_answer, 240),
    ("gcc -O3", c_project("-O3 -mavx2 -mfma -ffp-contract=off"), c_answer, 240),
    ("sqlite", heredoc("/tmp/q.sql", SQL) + "\nrm -f /tmp/t.db; sqlite3 /tmp/t.db </tmp/q.sql", sql_answer, 240),
    ("apt", DEB, lambda: "installed\nremoved", 240),
    ("xz and bzip2", "for z in gzip bzip2 xz; do $z -c /tmp/block | $z -dc | cmp - /tmp/block && echo $z; done",
     lambda: "gzip\nbzip2\nxz", 240),
    ("large file", f"for i in $(seq {FILE_MIB}); do cat /tmp/block; done >/root/large; sync; echo 3 >/proc/sys/vm/drop_caches; "
     "md5sum </root/large | cut -c1-32; rm /root/large", lambda: hashlib.md5(pattern(FILE_MIB)).hexdigest(), 240),
    ("memory patterns", "stress-ng --quiet --vm 2 --vm-bytes 96M --vm-method all --verify --vm-ops 2000 --timeout 60 && echo verified",
     lambda: "verified", 300),
    ("java", "mkdir -p /tmp/j && cd /tmp/j\n" + heredoc("Hello.java", JAVA) + "\njavac Hello.java && java Hello", java_answer, 400),
    ("go", "mkdir -p /tmp/g && cd /tmp/g\n" + heredoc("hello.go", GO) + "\nHOME=/root GOFLAGS=-p=1 go run hello.go", go_answer, 900),
]


def complaints(guest):
    """What the kernel said of itself that it should not have."""
    return guest.command("dmesg | grep -E 'Oops|BUG:|lockup|stall|WARNING:|traps:|segfault|invalid opcode|general protection' | "
                         "grep -v 'hw-vuln'; true").strip()


def do_pieces(guest, wanted=None):
    """Runs the pieces in a logged-in guest; raises on the first wrong answer."""
    guest.command("PS2=")
    for name, text, answer, seconds in PIECES:
        if wanted and name not in wanted:
            continue
        got = guest.command("(\n" + text.strip() + "\n)", seconds).strip()
        if got != answer().strip():
            raise Failure(f"{name} answered\n{got}\ninstead of\n{answer()}\n{complaints(guest)}")
        print(f"# {name}: right", flush=True)
    said = complaints(guest)
    if said:
        raise Failure(f"the kernel complained:\n{said}")

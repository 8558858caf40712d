# SPDX-License-Identifier: GPL-2.0-or-later
"""What every benchmark here shares: interleaved runs, medians, ratios, noise, and a table.

A figure is compared only with one of the same run: ours and the peer's take turns, so that a machine that changes its
speed changes both. Noise is the distance between the quartiles over the median.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("VIREO_BUILD", TREE / "build"))
VMM = BUILD / "vireo-vmm"


def noise(values):
    """Interquartile range over the median, in percent."""
    if len(values) < 4:
        return 0.0
    quartiles = statistics.quantiles(values, n=4)
    return 100 * (quartiles[2] - quartiles[0]) / statistics.median(values)


def run_once(command, expect=None, timeout=60):
    """Wall and CPU milliseconds of one process and its children, and its peak resident KiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if expect is not None and done.returncode != expect:
        sys.exit(f"{command}\nended with {done.returncode} instead of {expect}:\n"
                 f"{done.stdout.decode(errors='replace')[-2000:]}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall * 1000, cpu * 1000


def interleave(contenders, rounds, warmup=1):
    """contenders: {name: function returning a dict of figures}. Returns {name: {figure: [values]}}."""
    results = {name: {} for name in contenders}
    for turn in range(warmup + rounds):
        for name, measure in contenders.items():
            figures = measure()
            if turn < warmup:
                continue
            for key, value in figures.items():
                results[name].setdefault(key, []).append(value)
    return results


def report(title, results, ours, unit, better="lower", as_json=False):
    """Prints ours against each peer, figure by figure. Returns the table's rows."""
    rows = []
    for figure in results[ours]:
        mine = results[ours][figure]
        for peer, figures in results.items():
            if peer == ours or figure not in figures:
                continue
            theirs = figures[figure]
            rows.append({"figure": figure, "ours": statistics.median(mine), "peer": peer,
                         "theirs": statistics.median(theirs), "ratio": statistics.median(mine) / statistics.median(theirs),
                         "noise_ours": noise(mine), "noise_theirs": noise(theirs), "runs": len(mine)})
    if as_json:
        print(json.dumps({"title": title, "unit": unit, "better": better, "rows": rows}, indent=2))
        return rows
    print(f"{title} ({unit}; {better} is better; medians of {rows[0]['runs'] if rows else 0} interleaved runs)")
    print(f"  {'figure':<24}{'vireo':>12}{'noise':>8}  {'peer':<24}{'peer':>12}{'noise':>8}{'vireo/peer':>12}")
    for r in rows:
        print(f"  {r['figure']:<24}{r['ours']:>12.3f}{r['noise_ours']:>7.0f}%  {r['peer']:<24}{r['theirs']:>12.3f}"
              f"{r['noise_theirs']:>7.0f}%{r['ratio']:>12.3f}")
    return rows

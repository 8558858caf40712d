# SPDX-License-Identifier: GPL-2.0-or-later
"""What every benchmark here shares: interleaved runs, medians, ratios, noise, and a table.

A figure is compared only with one of the same run: ours and the peer's take turns, so that a machine that changes its
speed changes both. Noise is the distance between the quartiles over the median.
"""

import json
import os
import pathlib
import statistics

TREE = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("VIREO_BUILD", TREE / "build")).resolve()
VMM = BUILD / "vireo-vmm"


def noise(values):
    """Interquartile range over the median, in percent."""
    if len(values) < 4:
        return 100 * (max(values) - min(values)) / statistics.median(values)
    quartiles = statistics.quantiles(values, n=4)
    return 100 * (quartiles[2] - quartiles[0]) / statistics.median(values)


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


def report(title, results, ours, unit, better="lower", as_json=False, bars=None):
    """Prints ours against each peer, figure by figure. bars: {figure: the ratio to be met}."""
    rows = []
    for figure, mine in results[ours].items():
        for peer, figures in results.items():
            if peer == ours or figure not in figures:
                continue
            theirs = figures[figure]
            rows.append({"figure": figure, "ours": statistics.median(mine), "peer": peer,
                         "theirs": statistics.median(theirs), "ratio": statistics.median(mine) / statistics.median(theirs),
                         "noise_ours": noise(mine), "noise_theirs": noise(theirs), "runs": len(mine),
                         "bar": (bars or {}).get(figure)})
    if as_json:
        print(json.dumps({"title": title, "unit": unit, "better": better, "rows": rows}, indent=2), flush=True)
        return
    print(f"{title}\n({unit}; {better} is better; medians of {len(next(iter(results[ours].values())))} interleaved runs)")
    print(f"  {'figure':<18}{ours:>12}{'noise':>7}   {'peer':<20}{'peer':>12}{'noise':>7}{'ratio':>9}  bar")
    for r in rows:
        bar = ""
        if r["bar"] is not None:
            met = r["ratio"] <= r["bar"] if better == "lower" else r["ratio"] >= r["bar"]
            bar = f"{'<=' if better == 'lower' else '>='} {r['bar']:g} {'met' if met else 'MISSED'}"
        print(f"  {r['figure']:<18}{r['ours']:>12.3f}{r['noise_ours']:>6.0f}%   {r['peer']:<20}{r['theirs']:>12.3f}"
              f"{r['noise_theirs']:>6.0f}%{r['ratio']:>9.3f}  {bar}")
    print(flush=True)

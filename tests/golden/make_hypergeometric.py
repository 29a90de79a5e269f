"""Writes hypergeometric.json: tails by scipy.stats.hypergeom, and bounds in exact whole numbers, for `src/stats/hypergeometric.rs`.

    pip install scipy==1.17.1
    python tests/golden/make_hypergeometric.py
"""

import json
from fractions import Fraction
from math import comb
from pathlib import Path

import scipy.stats

LEVEL = Fraction(1, 20)


def exact_tail(found, population, differing, drawn):
    """P(X <= found) as a fraction."""
    ways = range(max(0, drawn + differing - population), min(found, differing, drawn) + 1)
    counted = sum(comb(differing, i) * comb(population - differing, drawn - i) for i in ways)
    return Fraction(counted, comb(population, drawn))


def exact_bound(found, population, drawn):
    """The largest number of differing values that a draw like this does not speak against."""
    low, high = found, population - (drawn - found)
    while low < high:
        middle = (low + high + 1) // 2
        if exact_tail(found, population, middle, drawn) > LEVEL:
            low = middle
        else:
            high = middle - 1
    return low


def main():
    tails = []
    for population, differing, drawn, found in [
        (10, 3, 4, 0), (10, 3, 4, 1), (10, 3, 4, 2), (100, 5, 10, 0), (100, 50, 10, 2), (1000, 10, 300, 0),
        (1000, 100, 300, 20), (40_000, 400, 300, 0), (40_000, 2000, 300, 6), (1_000_000, 10_000, 300, 0),
        (1_000_000, 30_000, 1000, 15), (1_000_000, 500_000, 100_000, 49_000), (1_000_000, 4, 500_000, 0),
        (999_983, 12_345, 54_321, 600),
    ]:
        tail = scipy.stats.hypergeom.cdf(found, population, differing, drawn)
        tails.append([population, differing, drawn, found, float(tail)])
    bounds = []
    for population, drawn, found in [
        (1, 0, 0), (1, 1, 0), (1, 1, 1), (10, 4, 0), (10, 4, 2), (20, 1, 0), (100, 1, 0), (100, 59, 0), (100, 95, 3),
        (100, 99, 0), (100, 100, 7), (1000, 30, 0), (1000, 30, 1), (1000, 300, 12), (5000, 299, 0), (5000, 299, 299),
        (40_000, 300, 0), (40_000, 300, 5),
    ]:
        bounds.append([population, drawn, found, exact_bound(found, population, drawn)])
    lines = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in
             [("tails", tails), ("bounds", bounds)]]
    Path(__file__).with_name("hypergeometric.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

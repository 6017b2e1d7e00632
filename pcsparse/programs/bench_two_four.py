"""Command line of the benchmark of 2:4 products."""

import argparse
from collections.abc import Sequence

from pcsparse.bench.limits import measure_limits
from pcsparse.bench.two_four import CACHE_BYTES, ITEMS, SHAPES, run_two_four, two_four_table
from pcsparse.timing import environment


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, print a table; 0 if every product agreed with the twin, else 1."""
    parser = argparse.ArgumentParser(description="Verify 2:4 products against the twin, then time them.")
    parser.add_argument("--shapes", nargs="+", type=_shape, default=SHAPES, help="columns x rows: 4096x1000")
    parser.add_argument("--items", nargs="+", type=int, default=ITEMS, help="batches")
    parser.add_argument("--runs", type=int, default=30, help="of each product, cold and warm")
    parser.add_argument("--cache", type=int, default=CACHE_BYTES, help="bytes of the last-level cache")
    given = parser.parse_args(arguments)
    print(environment().header())
    limits = measure_limits()
    results = run_two_four(given.shapes, given.items, runs=given.runs, cache_bytes=given.cache)
    # a peak is what cannot be exceeded, so the better of two measurements
    limits = limits.or_better(measure_limits())
    print(f"limits: {limits}")
    print(f"milliseconds, median and quartiles of {given.runs} runs in turns; cold: the weight comes from")
    print("memory, warm: the same product ran right before\n")
    print(two_four_table(results, limits))
    return 0 if all(result.passed for result in results) else 1


def _shape(text: str) -> tuple[int, int]:
    n_in, n_out = text.split("x")
    return int(n_in), int(n_out)

"""`scripts/bench_two_four.py`: products with 2:4 matrices on this CPU, beside torch's dense ones."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.eie_layers import cache_bytes
from pcsparse.bench.limits import measure_limits
from pcsparse.bench.report import write_json
from pcsparse.bench.two_four import ITEMS, SHAPES, run_two_four, two_four_table
from pcsparse.errors import RangeError
from pcsparse.programs.bench_settings import at_threads
from pcsparse.programs.output_file import output_file
from pcsparse.timing import environment

_QUICK_SCALE, _QUICK_RUNS, _QUICK_CACHE = 16, 3, 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it; 1 if any product disagrees with the twin, else 0.

    Raises:
        RangeError: fewer than one run, item, thread or byte of cache.
    """
    parser = argparse.ArgumentParser(description="Verify 2:4 products against the twin, then time them.")
    parser.add_argument("--shapes", nargs="+", type=_shape, default=SHAPES, help="columns x rows: 4096x1000")
    parser.add_argument("--items", nargs="+", type=int, default=ITEMS, help="batches")
    parser.add_argument("--runs", type=int, help="of each product, cold and warm (default 30; quick 3)")
    parser.add_argument("--cache", type=int, help="bytes of the last-level cache (default: this machine's)")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of every size, few runs: seconds")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--out", type=output_file, default=Path("bench-out/two_four.json"), help="JSON file")
    given = parser.parse_args(arguments)
    if given.runs is None:
        given.runs = _QUICK_RUNS if given.quick else 30
    cache = (_QUICK_CACHE if given.quick else cache_bytes()) if given.cache is None else given.cache
    if min(given.runs, cache, *given.items) < 1:
        raise RangeError(
            f"runs, items and cache must be at least 1, got runs={given.runs}, items={list(given.items)}, "
            f"cache={cache}"
        )
    keep_freed_memory()
    return at_threads(given.threads, lambda: _run(given, cache))


def _run(given: argparse.Namespace, cache: int) -> int:
    where = environment()
    print(where.header())
    limits = measure_limits()
    shapes, runs = given.shapes, given.runs
    if given.quick:
        shapes = [_smaller(n_in, n_out) for n_in, n_out in shapes]
    results = run_two_four(shapes, given.items, runs=runs, cache_bytes=cache)
    # a peak is what cannot be exceeded, so the better of two measurements
    limits = limits.or_better(measure_limits())
    print(f"limits: {limits}; last-level cache {cache / (1 << 20):g} MiB")
    print(f"milliseconds, median and quartiles of {runs} runs in turns; cold: the weight comes from")
    print("memory, warm: the same product ran right before\n")
    print(two_four_table(results, limits))
    content = {
        "format": 1,
        "environment": asdict(where),
        "limits": asdict(limits),
        "cache_bytes": cache,
        "quick": given.quick,
        "results": [{**asdict(result), "passed": result.passed} for result in results],
    }
    write_json(given.out, content)
    print(f"\nwritten: {given.out}")
    return 0 if all(result.passed for result in results) else 1


def _shape(text: str) -> tuple[int, int]:
    n_in, _, n_out = text.partition("x")
    if not (n_in.isdecimal() and n_out.isdecimal() and int(n_in) and int(n_out)) or int(n_in) % 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no shape: give columns, a multiple of 4, and rows, such as 4096x1000"
        )
    return int(n_in), int(n_out)


def _smaller(n_in: int, n_out: int) -> tuple[int, int]:
    """A sixteenth, of columns in whole groups of four."""
    return max(4, n_in // _QUICK_SCALE // 4 * 4), max(1, n_out // _QUICK_SCALE)

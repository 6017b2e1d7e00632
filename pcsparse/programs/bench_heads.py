"""`scripts/bench_heads.py`: EIE's nine layers on this CPU, beside dense and compressed-row products."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.eie_layers import (
    DENSE,
    GOALS,
    OURS,
    SCIPY_CSR,
    TORCH_CSR,
    TORCH_CSR64,
    HeadResult,
    cache_bytes,
    geometric_mean,
    run_head_layer,
)
from pcsparse.bench.limits import Limits, measure_limits
from pcsparse.bench.report import write_json
from pcsparse.bench.tables import name_failure, table
from pcsparse.errors import RangeError
from pcsparse.hardware.eie_layers import EIE_LAYERS
from pcsparse.programs.bench_settings import at_threads, check_only
from pcsparse.programs.output_file import output_file
from pcsparse.timing import environment

_QUICK_SCALE, _QUICK_RUNS, _QUICK_CACHE = 16, 3, 1 << 20
_OTHERS = (DENSE, TORCH_CSR, TORCH_CSR64, SCIPY_CSR)


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it; 1 if any product disagrees with float64, else 0.

    Raises:
        RangeError: no layer to run, or fewer than one run, item or thread.
    """
    parser = argparse.ArgumentParser(description="Verify, then time layers in EIE's format.")
    parser.add_argument("--items", type=int, nargs="+", default=[1], help="batches (default: 1)")
    parser.add_argument("--runs", type=int, help="of each product, cold and warm (default 40; quick 3)")
    parser.add_argument("--only", default="", help="layers with this text in their names")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of every size, few runs: seconds")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--out", type=output_file, default=Path("bench-out/heads.json"), help="JSON file")
    given = parser.parse_args(arguments)
    if given.runs is None:
        given.runs = _QUICK_RUNS if given.quick else 40
    if min(given.runs, *given.items) < 1:
        raise RangeError(f"runs and items must be at least 1, got runs={given.runs}, items={given.items}")
    check_only(given.only, [layer.name for layer in EIE_LAYERS], "layer")
    keep_freed_memory()
    return at_threads(given.threads, lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    where = environment()
    print(where.header())
    limits = measure_limits()
    cache = _QUICK_CACHE if given.quick else cache_bytes()
    print(f"limits: {limits}; last-level cache {cache >> 20} MiB")
    print("random weights and activations of the published densities, not trained ones", flush=True)
    results: list[HeadResult] = []
    for n_items in given.items:
        here = []
        for layer in EIE_LAYERS:
            if given.only in layer.name:
                scale = _QUICK_SCALE if given.quick else 1
                here.append(run_head_layer(layer, n_items, given.runs, scale=scale, cache=cache))
        results += here
        _show(here, n_items, limits)
    content = {
        "format": 1,
        "environment": asdict(where),
        "limits": asdict(limits),
        "cache_bytes": cache,
        "results": [asdict(result) for result in results],
    }
    write_json(given.out, content)
    print(f"\nwritten: {given.out}")
    failed = [(result, check) for result in results for check in result.checks if not check.passed]
    for result, check in failed:
        print(f"FAILED  {result.layer.name}: {name_failure(check)}")
    return 1 if failed else 0


def _show(results: list[HeadResult], n_items: int, limits: Limits) -> None:
    whole = [result for result in results if result.passed]
    if not whole:
        return
    for title, warm in (("caches cold", False), ("caches warm", True)):
        columns = ("layer", "pcsparse us", "quartiles", "by", *_OTHERS, "x dense", "x CSR", "x CSR int64",
                   "ps a MAC", "floor us", "bytes", "of CSR")  # fmt: skip
        rows = [_row(result, limits, warm=warm) for result in whole]
        print(f"\nEIE's layers, batch {n_items}, {title}; microseconds\n{table(columns, rows)}")
        dense = [result.ratio(DENSE, warm=warm) for result in whole]
        csr = [result.ratio(TORCH_CSR, SCIPY_CSR, warm=warm) for result in whole]
        default = [result.ratio(TORCH_CSR64, SCIPY_CSR, warm=warm) for result in whole]
        for name, goal, ratios in (
            ("dense", GOALS["dense"], dense),
            ("CSR, the best of three", GOALS["CSR"], csr),
            ("CSR as torch and scipy make it", GOALS["CSR"], default),
        ):
            print(
                f"over {name}: {sum(ratio > 1 for ratio in ratios)} of {len(ratios)} faster, geometric mean "
                f"{geometric_mean(ratios):.2f} (to reach cold, at batch 1: {goal:.0f})"
            )
    largest = max(result.bytes_layout / result.bytes_csr for result in whole)
    print(
        f"bytes of a layer over CSR with float32 and int32: at most {largest:.3f} (to reach: 0.25)",
        flush=True,
    )


def _row(result: HeadResult, limits: Limits, *, warm: bool) -> tuple[str, ...]:
    times = result.warm if warm else result.cold
    ours = times[OURS]
    return (
        result.layer.name,
        _us(ours.median),
        f"{_us(ours.q1)}-{_us(ours.q3)}",
        "columns" if result.skips_zeros else "rows",
        *(_us(times[name].median) for name in _OTHERS),
        f"{result.ratio(DENSE, warm=warm):.2f}",
        f"{result.ratio(TORCH_CSR, SCIPY_CSR, warm=warm):.2f}",
        f"{result.ratio(TORCH_CSR64, SCIPY_CSR, warm=warm):.2f}",
        f"{1e12 * ours.median / max(result.n_macs, 1):.0f}",
        _us(result.floor(limits)),
        f"{result.bytes_layout:,}",
        f"{result.bytes_layout / result.bytes_csr:.3f}",
    )


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-5 else f"{1e6 * seconds:.1f}"

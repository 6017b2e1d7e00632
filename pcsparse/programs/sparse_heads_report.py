"""Tables and files of what became of the heads."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pcsparse.bench.report import write_json
from pcsparse.bench.tables import table
from pcsparse.programs.sparse_heads_run import CONTROL, LAST, HeadRun
from pcsparse.programs.sparse_heads_score import Score
from pcsparse.programs.sparse_heads_tasks import Task, commonest_share
from pcsparse.whole_file import write_whole

_STAGES = ("dense", CONTROL, "pruned", "pruned, fine-tuned", "shared", "shared, fine-tuned", LAST)


@dataclass(frozen=True)
class Trained:
    """A dense network that has learnt its task.

    Attributes:
        task: what it learnt.
        model: the network.
        score: on held-out data.
        loss: mean of the last epoch.
        seconds: that training took.
    """

    task: Task
    model: nn.Module
    score: Score
    loss: float
    seconds: float


def product_lines(found: HeadRun) -> str:
    """A line a layer: which product it takes for one item, and what both cost."""
    lines = []
    for name, said in found.products.items():
        # the smallest batch comes first, and the timed item is one
        lines.append(f"{name} takes: {said[0]}")
    return "\n".join(lines)


def accuracy_table(runs: Sequence[HeadRun]) -> str:
    """A line a stage, a column a run."""
    rows = []
    for found in runs:
        cells = [found.score(stage) for stage in _STAGES]
        rows.append(
            (
                found.task,
                found.method,
                *("-" if cell is None else str(cell) for cell in cells),
                str(found.cost),
            )
        )
    columns = ("task", "method", *_STAGES, "packed - control")
    title = "accuracy on held-out data in % (95 % of the bootstrap)"
    turned = list(zip(columns, *rows, strict=True))
    return f"{title}\n{table(turned[0], turned[1:])}"


def size_table(runs: Sequence[HeadRun]) -> str:
    """A line a run: bytes of the weights, milliseconds of the heads."""
    columns = ("task", "method", "kept", "float32", "packed", "file", "Huffman", "float32 / file",
               "float32 / Huffman", "dense ms", "packed ms", "quartiles")  # fmt: skip
    rows = []
    for found in runs:
        report = found.report
        huffman = report.huffman_bytes
        rows.append(
            (
                found.task, found.method, f"{_kept(found):.1%}",
                *(f"{size:,}" for size in (report.dense_bytes, report.packed_bytes, report.file_bytes)),
                "-" if huffman is None else f"{huffman:,}",
                f"{report.dense_bytes / report.file_bytes:.1f}",
                "-" if huffman is None else f"{report.dense_bytes / huffman:.1f}",
                f"{1e3 * found.dense.median:.3f}",
                f"{1e3 * found.packed.median:.3f}",
                f"{1e3 * found.packed.q1:.3f}-{1e3 * found.packed.q3:.3f}",
            )
        )  # fmt: skip
    return f"weights of the heads in bytes; a head alone on one item, caches warm\n{table(columns, rows)}"


def _kept(found: HeadRun) -> float:
    sizes = [layer.dense_bytes for layer in found.report.layers]
    kept = [layer.density * size for layer, size in zip(found.report.layers, sizes, strict=True)]
    return sum(kept) / sum(sizes)


def write_results(
    folder: Path, trained: Sequence[Trained], runs: Sequence[HeadRun], facts: dict[str, Any]
) -> None:
    """Write results.json, which holds all, and results.csv, a line a run.

    Args:
        folder: that holds them; must exist.
        trained: the dense networks.
        runs: what became of their heads.
        facts: what else results.json should say.
    """
    dense = [
        {
            "task": one.task.name,
            "classes": one.task.classes,
            "groups": one.task.n_groups,
            "network": type(one.model).__name__,
            "parameters": sum(parameter.numel() for parameter in one.model.parameters()),
            "score": asdict(one.score),
            "commonest": commonest_share(one.task),
            "loss": one.loss,
            "seconds": one.seconds,
        }
        for one in trained
    ]
    results = [{**asdict(found), "file": found.file.name} for found in runs]
    write_json(
        folder / "results.json",
        {"format": 1, **facts, "dense": dense, "runs": results},
    )
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ("task", "method", *_STAGES, "packed_less_control", "low", "high", "kept", "float32_bytes",
         "packed_bytes", "file_bytes", "huffman_bytes", "dense_ms", "packed_ms")
    )  # fmt: skip
    for found in runs:
        scores = [found.score(stage) for stage in _STAGES]
        report = found.report
        rows.writerow(
            (found.task, found.method, *("" if score is None else f"{score.value:.5f}" for score in scores),
             *(f"{value:.5f}" for value in (found.cost.value, found.cost.low, found.cost.high)),
             f"{_kept(found):.5f}", report.dense_bytes, report.packed_bytes, report.file_bytes,
             "" if report.huffman_bytes is None else report.huffman_bytes,
             f"{1e3 * found.dense.median:.4f}", f"{1e3 * found.packed.median:.4f}")
        )  # fmt: skip
    write_whole(folder / "results.csv", text.getvalue().encode())

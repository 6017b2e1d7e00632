"""What the study of kernel offsets says: a table and a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pcsparse.bench.figures import new_figure, save_figure
from pcsparse.bench.tables import quartiles, table
from pcsparse.timing import Timing


@dataclass(frozen=True)
class OffsetRow:
    """One number of offsets. Times are seconds, None where a network was wrong.

    Attributes:
        offsets: that each 3^3 kernel keeps.
        same: whether the network gave what the whole one gives with zeros for weights.
        pairs: of all convolutions of several offsets together.
        macs: multiply-adds of the network.
        searched: pairs that the maps have to find.
        network_line, maps_line: predicted milliseconds, on lines between other numbers of offsets.
        network: measured, with the maps there.
        maps: measured, levels included.
        both: measured in one piece, from coordinates to logits.
    """

    offsets: int
    same: bool
    pairs: float
    macs: float
    searched: float
    network_line: float
    maps_line: float
    network: Timing | None = None
    maps: Timing | None = None
    both: Timing | None = None

    @property
    def predicted(self) -> float:
        """Milliseconds from coordinates to logits."""
        return self.network_line + self.maps_line


def offsets_table(rows: Sequence[OffsetRow]) -> str:
    """A line a number of offsets, the whole kernel first; how much time fell over how much work did."""
    whole = rows[0]
    columns = ("offsets", "M pairs", "share", "G MACs", "share", "predicted ms", "measured ms", "quartiles",
               "off by", "network ms", "maps ms", "fall: ms", "of MACs", "ratio")  # fmt: skip
    lines = []
    for row in rows:
        facts = (
            str(row.offsets),
            f"{row.pairs / 1e6:.3f}",
            f"{row.pairs / whole.pairs:.3f}",
            f"{row.macs / 1e9:.3f}",
            f"{row.macs / whole.macs:.3f}",
        )
        if row.both is None or row.network is None or row.maps is None or whole.both is None:
            lines.append((*facts, *("-" for _ in columns[5:])))
            continue
        measured = 1e3 * row.both.median
        fell, less = 1 - row.both.median / whole.both.median, 1 - row.macs / whole.macs
        lines.append(
            (
                *facts,
                f"{row.predicted:.2f}",
                f"{measured:.2f}",
                quartiles(row.both),
                f"{row.predicted / measured - 1:+.1%}",
                f"{1e3 * row.network.median:.2f}",
                f"{1e3 * row.maps.median:.2f}",
                f"{fell:.3f}",
                f"{less:.3f}",
                f"{fell / less:.2f}" if less > 0 else "-",
            )
        )
    return table(columns, lines) + (
        "\npredicted: each layer on the straight line over its pairs, between times of all offsets, 40 % of "
        "them and the centre alone; network and maps on lines through the whole and the smallest network. "
        "ratio: 1 where time falls as multiply-adds do. ms from coordinates to logits, maps included."
    )


def offsets_figure(rows: Sequence[OffsetRow], title: str, path: Path) -> None:
    """Write a PNG: milliseconds over multiply-adds, measured and predicted.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    figure, axes = new_figure()
    x = [row.macs / rows[0].macs for row in rows]
    for name, values, colour in (
        ("network and maps", [_ms(row.both) for row in rows], "#0b5cad"),
        ("network", [_ms(row.network) for row in rows], "#15803d"),
        ("maps", [_ms(row.maps) for row in rows], "#c2410c"),
    ):
        axes.plot(x, values, "o", color=colour, label=f"{name}, measured")
    for name, values, colour in (
        ("network and maps", [row.predicted for row in rows], "#0b5cad"),
        ("network", [row.network_line for row in rows], "#15803d"),
        ("maps", [row.maps_line for row in rows], "#c2410c"),
    ):
        axes.plot(x, values, "-", color=colour, linewidth=1, label=f"{name}, predicted")
    whole = _ms(rows[0].both)
    axes.plot([0, 1], [0, whole], ":", color="#7a7a7a", label="in proportion to multiply-adds")
    for row, where in zip(rows, x, strict=True):
        axes.annotate(str(row.offsets), (where, _ms(row.both)), (0, 6),
                      textcoords="offset points", fontsize=7, ha="center")  # fmt: skip
    axes.set_xlim(0, 1.05)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("multiply-adds, share of those of the whole kernel; numbers are offsets of 27")
    axes.set_ylabel("ms")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.2)
    axes.legend(fontsize=7)
    save_figure(figure, path)


def _ms(time: Timing | None) -> float:
    return math.nan if time is None else 1e3 * time.median

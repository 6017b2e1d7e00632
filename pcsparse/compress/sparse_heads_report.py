"""What became of the dense layers of a head: bytes by layer, accuracy by stage."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["eie", "2:4"]


@dataclass(frozen=True)
class LayerReport:
    """A layer that was converted.

    Attributes:
        name: in the model.
        also: other names of the same module.
        kind: "Linear" or "Conv2d".
        shape: of its weight, as torch has it.
        density: share of the weights that are not 0 in the packed layer.
        dense_bytes: of the weight in float32.
        packed_bytes: of the weight's tensors in the converted layer, which are its state. Beside them a layer
            that has run holds what its products read: see `ops.packed_linear.eie_layout`.
        file_bytes: of the weight in a file of `save_heads`.
        huffman_bytes: the same with Huffman codes; None where the format has none.
    """

    name: str
    also: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    density: float
    dense_bytes: int
    packed_bytes: int
    file_bytes: int
    huffman_bytes: int | None


@dataclass(frozen=True)
class SkippedLayer:
    """A dense layer that stays as it is.

    Attributes:
        name: in the model.
        shape: of its weight; empty where it has none of its own.
        reason: why.
    """

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Stage:
    """A state that the model went through, in order of time.

    Attributes:
        name: "dense", "dense, fine-tuned" (the control), "pruned", "pruned, fine-tuned", "shared", "shared,
            fine-tuned", "packed".
        accuracy: what `evaluate` gave; None where there was none.
    """

    name: str
    accuracy: float | None


@dataclass(frozen=True)
class HeadsReport:
    """What `sparsify_heads` did. `str` of it is two tables.

    Attributes:
        method: "eie" or "2:4".
        layers: that were converted, in the order of the model.
        skipped: dense layers of the heads that stay.
        stages: that the model went through.
    """

    method: Method
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedLayer, ...]
    stages: tuple[Stage, ...]

    @property
    def dense_bytes(self) -> int:
        """Of all converted weights in float32."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Of all converted weights in memory."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def file_bytes(self) -> int:
        """Of all converted weights in a file."""
        return sum(layer.file_bytes for layer in self.layers)

    @property
    def huffman_bytes(self) -> int | None:
        """The same with Huffman codes."""
        sizes = [layer.huffman_bytes for layer in self.layers]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def accuracy(self, stage: str) -> float | None:
        """Of a stage by its name; None where it was not measured or did not occur."""
        return next((found.accuracy for found in self.stages if found.name == stage), None)

    def __str__(self) -> str:
        """A line a layer, a line a stage."""
        rows: list[tuple[str, ...]] = [("layer", "weight", "kept", "float32", "packed", "file", "Huffman")]
        rows += [_line(layer) for layer in self.layers]
        total = ("all", "", "", self.dense_bytes, self.packed_bytes, self.file_bytes, self.huffman_bytes)
        rows.append(tuple(_text(cell) for cell in total))
        lines = [f"{self.method}: {len(self.layers)} layers; sizes in bytes", *_aligned(rows)]
        lines += [f"left dense: {layer.name}: {layer.reason}" for layer in self.skipped]
        stages = [(stage.name, _accuracy(stage.accuracy)) for stage in self.stages]
        return "\n".join([*lines, "", *_aligned([("stage", "accuracy"), *stages])])


def _line(layer: LayerReport) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    sizes = (layer.dense_bytes, layer.packed_bytes, layer.file_bytes, layer.huffman_bytes)
    return (" = ".join((layer.name, *layer.also)), shape, f"{layer.density:.1%}", *map(_text, sizes))


def _text(cell: int | str | None) -> str:
    return "-" if cell is None else cell if isinstance(cell, str) else f"{cell:,}"


def _accuracy(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines

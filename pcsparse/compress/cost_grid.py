"""The widths at which a layer is timed."""

from dataclasses import dataclass

from pcsparse.compress.graph import ChannelGraph

Size = tuple[int, int]
"""c_in, c_out."""


@dataclass(frozen=True)
class Grid:
    """Widths of a layer, ascending.

    Attributes:
        widths_in, widths_out: the last are those of the whole network.
        alike: whether the layer has one width only, as a norm and a cat have, and a convolution past which
            rows go.
    """

    widths_in: tuple[int, ...]
    widths_out: tuple[int, ...]
    alike: bool

    @staticmethod
    def of(
        layer: str,
        kind: str,
        full: Size,
        graph: ChannelGraph,
        *,
        multiple: int,
        step: int,
        alike: bool = False,
    ) -> "Grid":
        """From the narrowest that groups of at least `multiple` channels leave, by `step`, to the full one.

        Args:
            layer: its name.
            kind: "conv", "linear", "norm" or "cat"; a cat is as wide as what the layer reads.
            full: in the whole network.
            graph: of it.
            multiple: the least width of a group.
            step: widths between are multiples of it.
            alike: of a convolution, whether it has as many outputs as inputs, whatever its group keeps.
        """
        ins = _widths(layer, "norm" if kind == "norm" else "in", full[0], graph, multiple, step)
        if alike or kind in ("norm", "cat"):
            return Grid(ins, ins, True)
        return Grid(ins, _widths(layer, "out", full[1], graph, multiple, step), False)

    def sizes(self) -> list[Size]:
        """All pairs of widths that are timed."""
        if self.alike:
            return [(width, width) for width in self.widths_out]
        return [(c_in, c_out) for c_in in self.widths_in for c_out in self.widths_out]

    def table(self, times: dict[Size, float]) -> tuple[tuple[float, ...], ...]:
        """Milliseconds as `cost.LayerCost.ms` has them."""
        if self.alike:
            return (tuple(times[width, width] for width in self.widths_out),)
        return tuple(tuple(times[c_in, c_out] for c_out in self.widths_out) for c_in in self.widths_in)


def _widths(
    layer: str, side: str, full: int, graph: ChannelGraph, multiple: int, step: int
) -> tuple[int, ...]:
    least = full
    for group in graph.free:
        places = sum(slot.fold for slot in group.slots if slot.layer == layer and slot.side == side)
        least -= places * (group.width - min(multiple, group.width))
    between = range(step * (least // step + 1), full, step)
    return tuple(sorted({least, *between, full}))

"""What a network costs by its channels and its kernel offsets together: multiply-adds, bytes, milliseconds.

Layers are timed at all widths twice, with all offsets and with some: how much of its time a layer spends on
what no offset changes hangs on its widths. Between both times it is on a line over its pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pcsparse.compress.cost import CostTable, LayerCost, Unit, Widths
from pcsparse.compress.offset_groups import OffsetGroup, Offsets
from pcsparse.compress.shared_maps import Chosen, SharedMaps


@dataclass(frozen=True)
class JointCost:
    """Two tables of one network, measured on the same sweeps.

    Attributes:
        maps: of the network, with pairs as means over the sweeps.
        whole: by widths, with all offsets.
        some: by the same widths, with some of them.
        kept: these, by group of `maps`.
    """

    maps: SharedMaps
    whole: CostTable
    some: CostTable
    kept: Mapping[str, Offsets]

    def total(self, unit: Unit, widths: Widths | None = None, chosen: Chosen | None = None) -> float:
        """The cost of the network with these widths and offsets.

        Multiply-adds and bytes are exact for the sweeps. With all offsets it is that of `whole`.

        Args:
            unit: "ms" (maps included), "MACs" a sweep, or "bytes" of weights.
            widths: from `ChannelGraph.widths`; all full if None.
            chosen: offsets by group of `maps`; all if None.

        Raises:
            RangeError: no such unit, a width that was not measured, or a choice that a group does not have.
        """
        given, kept = widths or {}, self.maps.by_layer(chosen or {})
        total = self.fixed(unit) + sum(self.searches(unit, chosen).values())
        for layer in self.whole.layers:
            sizes = self.whole.widths_of(layer, given.get(layer.name))
            total += self.of_layer(layer, unit, *sizes, kept.get(layer.name))
        return total

    def fixed(self, unit: Unit) -> float:
        """What neither widths nor offsets change."""
        # all of the maps may be searching: a difference of sums is not exact
        return max(0.0, self.whole.fixed(unit) - sum(self.searches(unit).values()))

    def searches(self, unit: Unit, chosen: Chosen | None = None) -> dict[str, float]:
        """What the search of each map adds, by its first reader; nothing but in milliseconds."""
        if unit != "ms":
            return {}
        slope = self._search_slope
        return {name: slope * pairs for name, pairs in self.maps.searched_pairs(chosen).items()}

    def of_layer(
        self, layer: LayerCost, unit: Unit, c_in: int, c_out: int, kept: Sequence[int] | None = None
    ) -> float:
        """The cost of a layer at a width, with some of its offsets.

        Args:
            layer: of `whole.layers`.
            unit: see `total`.
            c_in: its input channels.
            c_out: its output channels.
            kept: offsets of a layer that reads a map; all that it has if None.

        Raises:
            RangeError: no such unit, or a width that was not measured.
        """
        cost = self.whole.of_layer(layer, unit, c_in, c_out)
        if kept is None or layer.kind != "conv" or (unit == "bytes" and layer.again):
            return cost
        group = self._groups[layer.name]
        have = next(reader.offsets for reader in group.readers if reader.name == layer.name)
        if unit == "bytes":
            return cost - self.whole.itemsize * (len(have) - len(kept)) * c_in * c_out
        every, pairs = group.pairs_of(have), group.pairs_of(kept)
        if unit == "MACs":
            return cost * pairs / every if every else cost
        return (1.0 + self.whole.rest[1]) * self.milliseconds(
            layer, c_in, c_out, pairs / every if every else 1.0
        )

    def milliseconds(self, layer: LayerCost, c_in: int, c_out: int, part: float) -> float:
        """Of a layer at a width, with a part of its pairs, 0 to 1; on the line through both tables.

        Raises:
            RangeError: a width that was not measured.
        """
        whole, fewer = layer.milliseconds(c_in, c_out), self._with_some.get((layer.name, layer.kind))
        if fewer is None or not 0 < fewer.n_pairs < layer.n_pairs:
            return whole
        saved = max(whole - fewer.milliseconds(c_in, c_out), 0.0)
        # fewer offsets than were timed: never below what none of them would take
        return max(whole - saved * (1.0 - part) / (1.0 - fewer.n_pairs / layer.n_pairs), 0.0)

    @cached_property
    def _search_slope(self) -> float:
        """Milliseconds a pair that is searched, on the line through both buildings of maps."""
        every = sum(self.maps.searched_pairs().values())
        less = every - sum(self.maps.searched_pairs(self.kept).values())
        saved = max(self.whole.map_ms - self.some.map_ms, 0.0)
        # a line that would come to less than nothing without pairs is one through nothing
        return min(saved / less, self.whole.map_ms / every) if less > 0 else 0.0

    @cached_property
    def _groups(self) -> dict[str, OffsetGroup]:
        return {reader.name: group for group in self.maps.groups for reader in group.readers}

    @cached_property
    def _with_some(self) -> dict[tuple[str, str], LayerCost]:
        return {(layer.name, layer.kind): layer for layer in self.some.layers}

"""What a network costs by the kernel offsets that it keeps: multiply-adds, bytes, milliseconds.

`measure_offset_cost` of `compress.offset_measure` makes the table. Times belong to a machine.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from pcsparse.compress.cost import Unit
from pcsparse.compress.offset_groups import OffsetGroup, Offsets, Reader
from pcsparse.compress.shared_maps import Chosen, SharedMaps
from pcsparse.errors import RangeError


@dataclass(frozen=True)
class Line:
    """Milliseconds over a quantity, measured at some points.

    Attributes:
        at: ascending, each once.
        ms: at each of them.

    Raises:
        RangeError: fewer than one point, not as many times, or points that do not ascend.
    """

    at: tuple[float, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at or len(self.at) != len(self.ms) or list(self.at) != sorted(set(self.at)):
            raise RangeError(f"a line needs times at points that ascend, got {self.ms} at {self.at}")

    def of(self, where: float) -> float:
        """On the line between its neighbours; beyond an end on that of the two nearest, never below 0."""
        if len(self.at) == 1:
            return self.ms[0]
        i = min(max(1, bisect_left(self.at, where)), len(self.at) - 1)
        share = (where - self.at[i - 1]) / (self.at[i] - self.at[i - 1])
        return max(0.0, self.ms[i - 1] + share * (self.ms[i] - self.ms[i - 1]))

    @property
    def ends(self) -> tuple[float, float]:
        """(base, slope) of the straight line through the first and the last point, neither below 0."""
        rise, run = self.ms[-1] - self.ms[0], self.at[-1] - self.at[0]
        slope = max(0.0, rise / run) if run > 0 else 0.0
        # a base below 0 would give a small network more than it costs
        base = max(0.0, self.ms[-1] - slope * self.at[-1])
        return base, (self.ms[-1] - base) / self.at[-1] if self.at[-1] > 0 else 0.0


def search_of(map_name: str) -> str:
    """Name of the search of a map among `OffsetCost.parts`."""
    return f"search of {map_name}"


@dataclass(frozen=True)
class OffsetCost:
    """All readers of maps, and the network around them.

    Attributes:
        maps: the network's, with pairs as means over the sweeps.
        products: milliseconds of each reader, by name, over the pairs that it keeps.
        network: of the whole network with its maps there, over the sum of `products`: as it is, and with the
            fewest offsets.
        building: of all levels and maps, over the sum of `SharedMaps.searched_pairs`: the same two.
        bytes: of all weights, as the network is before norms are folded.
        itemsize: bytes of a weight.
        machine: see `engine.tune_cache.device_key`.
        busy: whether the machine was too busy with other work for times to mean anything.
    """

    maps: SharedMaps
    products: Mapping[str, Line]
    network: Line
    building: Line
    bytes: int
    itemsize: int
    machine: str
    busy: bool = False

    def total(self, unit: Unit, chosen: Chosen | None = None) -> float:
        """The cost of the network where groups keep these offsets.

        Multiply-adds are exact for the sweeps: pairs times weights. Milliseconds are those of each layer on
        the straight line between measured points over the pairs that it keeps; their sum, and the pairs that
        are searched, give the network and its maps on the lines through the whole network and the smallest.

        Args:
            unit: "ms" (maps included), "MACs" a sweep, or "bytes" of weights.
            chosen: by group; those that are not named keep all that they have.

        Raises:
            RangeError: no such unit, or a choice that a group does not have.
        """
        return self.fixed(unit) + sum(self.parts(unit, chosen).values())

    def fixed(self, unit: Unit) -> float:
        """What no choice changes."""
        if unit == "ms":
            return self.network.ends[0] + self.building.ends[0]
        if unit == "MACs":
            return self.maps.rest_macs
        kernels = sum(len(r.offsets) * r.weights for group in self.maps.groups for r in group.readers)
        return float(self.bytes - self.itemsize * kernels)

    def parts(self, unit: Unit, chosen: Chosen | None = None) -> dict[str, float]:
        """What each reader adds to `fixed`; in milliseconds the search of each map, too, see `search_of`.

        Raises:
            RangeError: see `total`.
        """
        if unit not in ("ms", "MACs", "bytes"):
            raise RangeError(f"a cost is in ms, MACs, bytes, not in {unit!r}")
        kept = self.maps.by_layer(chosen or {})
        found = {}
        for group in self.maps.groups:
            for reader in group.readers:
                offsets = kept.get(reader.name, reader.offsets)
                found[reader.name] = self._of_reader(unit, group, reader, offsets)
        if unit == "ms":
            slope = self.building.ends[1]
            searched = self.maps.searched_pairs(chosen)
            found |= {search_of(name): slope * pairs for name, pairs in searched.items()}
        return found

    def _of_reader(self, unit: Unit, group: OffsetGroup, reader: Reader, offsets: Offsets) -> float:
        if unit == "ms":
            return self.network.ends[1] * self.products[reader.name].of(group.pairs_of(offsets))
        if unit == "MACs":
            return reader.pair_macs * group.pairs_of(offsets)
        return float(self.itemsize * len(offsets) * reader.weights)

    def maps_ms(self, chosen: Chosen | None = None) -> float:
        """Milliseconds to build all levels and maps."""
        base, slope = self.building.ends
        return base + slope * sum(self.maps.searched_pairs(chosen).values())

    def __str__(self) -> str:
        """A line a reader: pairs and milliseconds at the ends, then the network's."""
        head = f"{'layer':<28} {'offsets':>7} {'pairs':>11} {'ms':>8} {'fewest':>11} {'ms':>8}"
        lines = [head, "-" * len(head)]
        for group in self.maps.groups:
            for reader in group.readers:
                line = self.products[reader.name]
                lines.append(
                    f"{reader.name:<28} {len(reader.offsets):>7} {line.at[-1]:>11.0f} {line.ms[-1]:>8.3f} "
                    f"{line.at[0]:>11.0f} {line.ms[0]:>8.3f}"
                )
        for name, line in (("network", self.network), ("maps", self.building)):
            lines.append(
                f"{name}: {line.ms[-1]:.2f} ms as it is, {line.ms[0]:.2f} ms with the fewest offsets"
            )
        lines.append(self.machine)
        if self.busy:
            lines.append("the machine was BUSY with other work: measure again before you use these times")
        return "\n".join(lines)

"""Which convolutions of a network read one kernel map, and how many pairs each of its offsets has.

Products are saved by every layer that drops an offset; the search of the map only where all its readers do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import nn

from pcsparse.compress.cost_run import Call, calls_of, runnable
from pcsparse.compress.offset_groups import OffsetGroup, Offsets, Reader
from pcsparse.coords.cache import MapKey
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn.conv import SparseConv
from pcsparse.sparse_tensor import SparseTensor

Scope = Literal["map", "layer"]
"""Whether all readers of a map keep the same offsets, or each has its own."""
Chosen = Mapping[str, Sequence[int]]
"""The offsets that a group keeps, by its name; groups that are not named keep all that they have."""


@dataclass(frozen=True)
class SharedMaps:
    """All groups of a network.

    Attributes:
        groups: in the order of execution of their first readers.
        scope: whether a group is a map or a layer.
        rest_macs: multiply-adds a sweep of all layers that are in no group.
    """

    groups: tuple[OffsetGroup, ...]
    scope: Scope
    rest_macs: float

    @staticmethod
    def of(model: nn.Module, sweeps: Sequence[SparseTensor], *, scope: Scope = "map") -> "SharedMaps":
        """Run a network without arithmetic and look at which maps its convolutions ask for.

        Kernels of one offset are left out.

        Args:
            model: takes a SparseTensor; it is not changed.
            sweeps: calibration inputs; their caches stay as they are.
            scope: "map" or "layer".

        Raises:
            RangeError: no sweeps, or no such scope.
            UnsupportedError: a convolution that reads two maps, other maps on other sweeps, or a part of one.
        """
        if not sweeps or scope not in get_args(Scope):
            raise RangeError(
                f"shared maps need sweeps to count pairs on, and a scope of {', '.join(get_args(Scope))}; "
                f"got {len(sweeps)} sweeps and scope={scope!r}"
            )
        net = runnable(model, fused=False)
        runs = [_look(net, x) for x in sweeps]
        _check_readers(runs)
        groups: list[OffsetGroup] = []
        for key, calls in runs[0].readings.items():
            names = list(dict.fromkeys(call.name for call in calls))
            readers = [_reader(model, name, calls) for name in names]
            split = [readers] if scope == "map" else [[reader] for reader in readers]
            groups += [_group(key, names[0], tuple(some), runs) for some in split]
        return SharedMaps(tuple(groups), scope, sum(run.rest_macs for run in runs) / len(runs))

    def group(self, name: str) -> OffsetGroup:
        """The group of this name.

        Raises:
            RangeError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise RangeError(f"no kernel map is called {name!r}; by their first readers they are {known}")

    def by_layer(self, chosen: Chosen) -> dict[str, Offsets]:
        """The offsets that each reader of the named groups keeps.

        Raises:
            RangeError: no such group, a choice that it does not have (see `OffsetGroup.checked`), or one that
                leaves a reader none of its own.
        """
        kept: dict[str, Offsets] = {}
        for name, offsets in chosen.items():
            group = self.group(name)
            wanted = set(group.checked(offsets))
            for reader in group.readers:
                kept[reader.name] = tuple(k for k in reader.offsets if k in wanted)
                if not kept[reader.name]:
                    raise RangeError(
                        f"{reader.name} has the offsets {reader.offsets} only, and would lose all of them "
                        f"with {tuple(offsets)}; keep one of them, or choose by layer"
                    )
        return kept

    def searched_pairs(self, chosen: Chosen | None = None) -> dict[str, float]:
        """Pairs that the search of each map has to find, means over the sweeps, by the map's first reader.

        They are those of all offsets that any reader of the map keeps. Maps that change the stride are left
        out: they come with their levels, whole.

        Raises:
            RangeError: see `by_layer`.
        """
        kept = self.by_layer(chosen or {})
        found: dict[str, dict[int, float]] = {}
        for group in self.groups:
            if group.free:
                pairs = dict(zip(group.offsets, group.pairs, strict=True))
                offsets = {k for reader in group.readers for k in kept.get(reader.name, reader.offsets)}
                found.setdefault(group.map_name, {}).update({k: pairs[k] for k in offsets})
        return {name: sum(pairs.values()) for name, pairs in found.items()}

    def macs(self, chosen: Chosen | None = None) -> float:
        """Multiply-adds a sweep of the network with these offsets, exact for the sweeps; all if None."""
        kept = self.by_layer(chosen or {})
        total = self.rest_macs
        for group in self.groups:
            for reader in group.readers:
                total += reader.pair_macs * group.pairs_of(kept.get(reader.name, reader.offsets))
        return total

    def __str__(self) -> str:
        """A line a group: offsets, pairs, readers."""
        lines = []
        for group in self.groups:
            shape = "x".join(map(str, group.relation.kernel_size))
            lines.append(
                f"{group.name}: {len(group.offsets)} of {group.relation.volume} offsets ({shape}, stride "
                f"{group.relation.stride[0]}), {sum(group.pairs):.0f} pairs; "
                + ", ".join(reader.name for reader in group.readers)
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Run:
    """What one run read: the calls on each map of several offsets, and the multiply-adds of all others."""

    readings: dict[MapKey, tuple[Call, ...]]
    rest_macs: float


def _look(net: nn.Module, sweep: SparseTensor) -> _Run:
    x = SparseTensor(sweep.feats, sweep.coords, stride=sweep.stride, batch_size=sweep.batch_size)
    calls, _ = calls_of(net, x)
    keys = {id(kmap): key for key, kmap in x.cache.maps().items()}
    found: dict[MapKey, tuple[Call, ...]] = {}
    rest = 0.0
    for call in calls:
        if call.kmap is None:
            continue
        if call.kind == "linear" or call.kmap.relation.volume == 1:
            rest += call.macs
            continue
        key = keys[id(call.kmap.transposed() if call.kmap.reads_coarse else call.kmap)]
        # all subsets of the offsets are of one map
        whole = replace(key, offsets=None)
        found[whole] = (*found.get(whole, ()), call)
    return _Run(found, rest)


def _check_readers(runs: Sequence[_Run]) -> None:
    some = [call.name for run in runs for calls in run.readings.values() for call in calls if call.some]
    if some:
        raise UnsupportedError(
            f"{some[0]} convolves a share of its rows, which differ from sweep to sweep: prune offsets "
            "first, voxels after"
        )
    seen = [{key: [call.name for call in calls] for key, calls in run.readings.items()} for run in runs]
    if any(other != seen[0] for other in seen):
        raise UnsupportedError(
            "the network reads other maps on other sweeps: its offsets have no fixed pairs"
        )
    names = [name for readers in seen[0].values() for name in dict.fromkeys(readers)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UnsupportedError(
            f"{twice[0]} reads several kernel maps with the same weights: its offsets belong to none alone"
        )


def _reader(model: nn.Module, name: str, calls: Sequence[Call]) -> Reader:
    conv = model.get_submodule(name)
    assert isinstance(conv, SparseConv)
    offsets = tuple(range(conv.relation.volume)) if conv.offsets is None else conv.offsets
    n_calls = sum(call.name == name for call in calls)
    return Reader(name, offsets, conv.c_in // conv.groups, conv.c_out, n_calls)


def _group(key: MapKey, map_name: str, readers: tuple[Reader, ...], runs: Sequence[_Run]) -> OffsetGroup:
    offsets = tuple(sorted({k for reader in readers for k in reader.offsets}))
    totals, rows = dict.fromkeys(offsets, 0), 0
    for run in runs:
        maps = {call.name: call.kmap for call in run.readings[key] if call.kmap is not None}
        counts: dict[int, int] = {}
        for reader in readers:
            counts.update(zip(reader.offsets, maps[reader.name].pairs.starts.diff().tolist(), strict=True))
        totals = {k: total + counts[k] for k, total in totals.items()}
        last = maps[readers[-1].name]
        rows += last.n_in if last.reads_coarse else last.n_out
    return OffsetGroup(
        name=readers[0].name,
        map_name=map_name,
        relation=key.relation,
        readers=readers,
        mirrored=key.fine == key.coarse and key.relation.is_symmetric,
        offsets=offsets,
        pairs=tuple(total / len(runs) for total in totals.values()),
        n_out=rows / len(runs),
    )

"""Which convolutions of a network read one kernel map, and how many pairs each of its offsets has.

Products are saved by every layer that drops an offset; the search of the map only where all its readers do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import nn

from pcsparse.compress.cost_run import Call, calls_of, runnable
from pcsparse.coords.cache import MapKey
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn.conv import SparseConv
from pcsparse.sparse_tensor import SparseTensor

Scope = Literal["map", "layer"]
"""Whether all readers of a map keep the same offsets, or each has its own."""
Offsets = tuple[int, ...]
"""Positions in the whole kernel, ascending; `coords.relation` has their order."""
Chosen = Mapping[str, Sequence[int]]
"""The offsets that a group keeps, by its name; groups that are not named keep all that they have."""


@dataclass(frozen=True)
class Reader:
    """A convolution that reads a map.

    Attributes:
        name: of the module.
        offsets: that it has.
        pair_macs: multiply-adds a pair.
    """

    name: str
    offsets: Offsets
    pair_macs: int


@dataclass(frozen=True)
class OffsetGroup:
    """Convolutions that keep the same kernel offsets: all readers of a map, or one of them.

    Attributes:
        name: of its first reader.
        map_name: of the first of all readers of the map.
        relation: geometry of the kernel.
        readers: in the order of execution.
        mirrored: whether the map is its own mirror image, so that an offset goes with its opposite.
        offsets: that at least one reader has.
        pairs: of each of `offsets`, means over the sweeps.
        n_out: rows of the coarse level, mean.
    """

    name: str
    map_name: str
    relation: Relation
    readers: tuple[Reader, ...]
    mirrored: bool
    offsets: Offsets
    pairs: tuple[float, ...]
    n_out: float

    @property
    def centre(self) -> int | None:
        """The offset of a mirrored map that leads each row to itself; it is never dropped."""
        middle = self.relation.volume // 2
        return middle if self.mirrored and middle in self.offsets else None

    @property
    def units(self) -> tuple[Offsets, ...]:
        """Offsets that only go together, ascending, without the centre."""
        if not self.mirrored:
            return tuple((k,) for k in self.offsets)
        last = self.relation.volume - 1
        pairs = {min(k, last - k): tuple(sorted({k, last - k} & set(self.offsets))) for k in self.offsets}
        return tuple(pairs[k] for k in sorted(pairs) if pairs[k] != (self.centre,))

    @property
    def free(self) -> bool:
        """Whether a share of all groups counts for it: whether it keeps the stride.

        Where a kernel changes the stride, each row of the fine level may have one pair only: without it a
        voxel is not read on the way down, and gets nothing but the bias on the way up.
        """
        return self.relation.stride == (1, 1, 1)

    def pairs_of(self, offsets: Iterable[int]) -> float:
        """Pairs of some offsets, mean over the sweeps."""
        wanted = set(offsets)
        return sum(n for k, n in zip(self.offsets, self.pairs, strict=True) if k in wanted)

    def checked(self, chosen: Sequence[int]) -> Offsets:
        """A choice as a tuple.

        Raises:
            RangeError: offsets that it does not have or that do not ascend, none, without the centre, or one
                without its opposite.
        """
        kept = tuple(chosen)
        if not kept or list(kept) != sorted(set(kept)) or not set(kept) <= set(self.offsets):
            raise RangeError(
                f"the offsets of {self.name!r} must ascend, each one of {self.offsets}; got {kept}"
            )
        if self.centre is not None and self.centre not in kept:
            raise RangeError(
                f"offset {self.centre} of {self.name!r} is its centre, where every row meets itself: it "
                f"must stay, got {kept}"
            )
        for unit in self.units:
            if 0 < len(set(unit) & set(kept)) < len(unit):
                raise RangeError(
                    f"offsets {unit} of {self.name!r} mirror each other: keep both or none, got {kept}"
                )
        return kept


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
            UnsupportedError: a convolution that reads two maps, or other maps on other sweeps.
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
            rest += call.n_pairs * call.c_in * call.c_out
            continue
        key = keys[id(call.kmap.transposed() if call.kmap.reads_coarse else call.kmap)]
        # all subsets of the offsets are of one map
        whole = replace(key, offsets=None)
        found[whole] = (*found.get(whole, ()), call)
    return _Run(found, rest)


def _check_readers(runs: Sequence[_Run]) -> None:
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
    return Reader(name, offsets, n_calls * conv.c_in * conv.c_out // conv.groups)


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

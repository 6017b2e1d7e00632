"""Kernel maps: verified against the twins, then timed beside the peers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.bench.cases import SETTLE, MapCase, Way
from pcsparse.bench.library import Library
from pcsparse.bench.limits import map_work
from pcsparse.bench.ours import Ours
from pcsparse.bench.outcome import Candidate, Result, verified_then_timed
from pcsparse.bench.scene import Scene, twin_expanded, twin_map
from pcsparse.bench.verify import Check, check_equal
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.keys import pack
from pcsparse.errors import UnsupportedError

_SEED = 20231


def run_map_case(
    case: MapCase, scene: Scene, peers: Sequence[Library], runs: int, *, settle: int = SETTLE
) -> Result:
    """A kernel map, end to end from int coordinates that all libraries get alike.

    The package must give the twin's rows in the twin's order; a peer may have an order of its own.
    `settle` is that of `timing.time_in_turns`.
    """
    wanted = _Wanted.of(case, scene.coords)
    candidates = [_candidate(library, case, wanted) for library in (Ours(), *peers)]
    n_pairs = wanted.pairs.rows_in.numel()
    work = map_work(len(wanted.given), wanted.n_made, n_pairs)
    goal = None if case.goal is None else (case.goal, float(n_pairs))
    return verified_then_timed(case.name, candidates, (work,), runs, goal, settle=settle)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What a case gives to a library and what must come out.

    Attributes:
        given: (n, 4) int32 coordinates.
        coords: (m, 4) int32 of the level that the way leads to or, if inverse, comes back from.
        pairs: from rows of `given` to rows of `coords` or, if inverse, the other way; ascending by output
            within an offset.
        n_made: coordinates made on the way.
    """

    given: Tensor
    coords: Tensor
    pairs: Pairs
    n_made: int

    @staticmethod
    def of(case: MapCase, cloud: Tensor) -> "_Wanted":
        relation = case.relation
        coarse, pairs = twin_map(cloud, relation)
        n_made = 0 if relation.is_submanifold else len(coarse)
        if case.way == "generative":
            fine, pairs = twin_expanded(coarse, relation)
            wanted = _Wanted(coarse, fine, _sorted(pairs), len(fine))
        elif case.way == "inverse":
            back = Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)
            wanted = _Wanted(cloud, coarse, _sorted(back), n_made)
        else:
            wanted = _Wanted(cloud, coarse, pairs, n_made)
        return wanted.shuffled() if case.shuffled else wanted

    def shuffled(self) -> "_Wanted":
        """The way down with the given rows in random order; outputs that are the given voxels follow them."""
        generator = torch.Generator().manual_seed(_SEED)
        order = torch.randperm(len(self.given), generator=generator)
        place = torch.argsort(order).int()
        rows_in, rows_out, coords = place[self.pairs.rows_in.long()], self.pairs.rows_out, self.coords
        if coords is self.given:
            rows_out, coords = place[rows_out.long()], coords[order]
        return _Wanted(
            self.given[order], coords, _sorted(Pairs(rows_in, rows_out, self.pairs.starts)), self.n_made
        )


def _candidate(library: Library, case: MapCase, wanted: _Wanted) -> Candidate:
    geometry = library.geometry(wanted.given)
    run = library.at_its_threads(lambda: library.make_map(geometry, case.relation, case.way))
    try:
        made = run()
    except UnsupportedError as error:
        return Candidate(library.name, None, refusal=str(error))
    found, expected = library.read_map(made), (wanted.coords, wanted.pairs)
    if not isinstance(library, Ours):
        found, expected = _by_key(*found, case.way), _by_key(*expected, case.way)
    return Candidate(library.name, run, tuple(_equal(*found, *expected)))


def _equal(coords: Tensor, pairs: Pairs, expected_coords: Tensor, expected: Pairs) -> list[Check]:
    checks = [check_equal("coordinates", coords, expected_coords)]
    for name in ("rows_in", "rows_out", "starts"):
        checks.append(check_equal(name, getattr(pairs, name), getattr(expected, name)))
    return checks


def _by_key(coords: Tensor, pairs: Pairs, way: Way) -> tuple[Tensor, Pairs]:
    """The same map with the rows of `coords` in the order of keys, whatever order a library has."""
    order = torch.argsort(pack(coords))
    rank = torch.argsort(order).int()
    rows_in, rows_out = pairs.rows_in, pairs.rows_out
    if way == "inverse":
        rows_in = rank[rows_in.long()]
    else:
        rows_out = rank[rows_out.long()]
    return coords[order], _sorted(Pairs(rows_in, rows_out, pairs.starts))


def _sorted(pairs: Pairs) -> Pairs:
    """The same pairs, ascending by output and then by input within an offset."""
    offset = torch.repeat_interleave(torch.arange(len(pairs.starts) - 1), pairs.starts.diff())
    n_out = int(pairs.rows_out.max()) + 1 if pairs.rows_out.numel() else 1
    n_in = int(pairs.rows_in.max()) + 1 if pairs.rows_in.numel() else 1
    order = torch.argsort((offset * n_out + pairs.rows_out) * n_in + pairs.rows_in)
    return Pairs(pairs.rows_in[order], pairs.rows_out[order], pairs.starts)

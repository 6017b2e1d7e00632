"""An order of input channels in which 2:4 pruning keeps more: large weights of one group part company.

Which four channels form a group is free as long as whoever makes the channels makes them in the same order.
Within a head that is the linear layer before, whose outputs are reordered alike.

Source: Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021: two stripes of four columns are
regrouped as well as can be. There the best pair of all is taken next; here all stripes meet in the rounds of
a tournament, so that a round regroups disjoint pairs at once and no list of all pairs is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from pcsparse.checks import check_shape
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.packed.two_four import GROUP, check_groups

_PAIRS = tuple(combinations(range(2 * GROUP), 2))
# the ways to halve eight columns, each as the half that has column 0; the first changes nothing
_HALVES = tuple(half for half in combinations(range(2 * GROUP), GROUP) if half[0] == 0)
# elements a block of the search, of which 57 arrays are held: 15 MB that stay in a cache
_BLOCK = 1 << 16
# of all magnitudes; a gain below it may be rounding, and would let the search run in circles
_LEAST_GAIN = 1e-9
_EXCHANGES = 2

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Hardswish,
    nn.Dropout, nn.Identity,
)  # fmt: skip
"""Modules that treat each channel alone and alike."""


@dataclass(frozen=True, eq=False)
class ChannelOrder:
    """An order of input channels, and what it is worth.

    Attributes:
        permutation: (n_in,) int64; channel `permutation[i]` comes to place i.
        before: sum of the magnitudes that 2:4 keeps in the given order.
        after: in the new one.
        ideal: of the larger half of all weights, wherever they are.
        rounds: of the search.
    """

    permutation: Tensor
    before: float
    after: float
    ideal: float
    rounds: int

    @property
    def efficacy(self) -> float:
        """The share of what 2:4 loses against unstructured pruning that the order wins back, 0 to 1."""
        lost = self.ideal - self.before
        return (self.after - self.before) / lost if lost > 0 else 0.0


def search_permutation(weight: Tensor, *, rounds: int = 100, escapes: int = 0) -> ChannelOrder:
    """Look for an order of columns in which the two largest of each four are larger.

    A round pairs all stripes of four columns and regroups each pair in the best of 35 ways; n_in / 4 - 1
    rounds pair everyone with everyone, and the search ends where as many in a row gain nothing. From there an
    escape exchanges a few channels at random and searches again; what is better stays. The result depends on
    the arguments only.

    A round is about 100 operations a weight: 1.5 s for 4096 x 4096, less than a millisecond for 128 x 64.

    Args:
        weight: (n_out, n_in) float, finite, n_in a multiple of 4.
        rounds: at most, escapes included; 0 only measures.
        escapes: at most.

    Raises:
        ShapeError: no matrix, or n_in is no multiple of 4.
        RangeError: a weight that is not finite, or rounds or escapes below 0.
    """
    check_shape("weight", weight, (None, None))
    check_groups("weight", weight.shape[1])
    if rounds < 0 or escapes < 0:
        raise RangeError(f"rounds and escapes must be at least 0, got {rounds} and {escapes}")
    # a column is a row here
    columns = np.ascontiguousarray(weight.detach().float().abs().cpu().numpy().T)
    if not np.isfinite(columns).all():
        raise RangeError(
            f"{np.sum(~np.isfinite(columns))} weights are not finite; look for what made them so"
        )
    order = np.arange(len(columns))
    before = _kept(columns, order)
    done = _settle(columns, order, rounds)
    rng = np.random.default_rng(0)
    for _ in range(escapes if len(columns) > GROUP else 0):
        moved = order.copy()
        some = rng.choice(len(moved), 2 * _EXCHANGES, replace=False)
        moved[some] = moved[some[::-1]]
        done += _settle(columns, moved, rounds - done)
        if _kept(columns, moved) > _kept(columns, order):
            order = moved
    ideal = float(np.sort(columns, axis=None)[columns.size - columns.size // 2 :].sum(dtype=np.float64))
    # groups in the order of their first channel, channels in a group ascending: equal groupings look alike
    groups = np.sort(order.reshape(len(order) // GROUP, GROUP), axis=1)
    order = groups[np.argsort(groups[:, 0])].reshape(-1)
    return ChannelOrder(torch.from_numpy(order), before, _kept(columns, order), ideal, done)


def _settle(columns: np.ndarray, order: np.ndarray, rounds: int) -> int:
    """Regroup pairs of stripes until none gains, for at most `rounds`; `order` is changed. Rounds done."""
    n_out, n_stripes = columns.shape[1], len(order) // GROUP
    least = _LEAST_GAIN * float(columns.sum(dtype=np.float64))
    step = max(1, _BLOCK // max(n_out, 1))
    quiet = 0
    for done, pairs in enumerate(_tournament(n_stripes)):
        # with an odd number everyone meets everyone in as many rounds as there are
        if done >= rounds or quiet >= n_stripes - 1 + n_stripes % 2 or n_stripes < 2:
            break
        gains = [_regroup(columns, order, pairs[i : i + step], least) for i in range(0, len(pairs), step)]
        quiet = 0 if sum(gains) > 0 else quiet + 1
    return done


def _kept(columns: np.ndarray, order: np.ndarray) -> float:
    """Sum of the two largest of each four."""
    groups = columns[order].reshape(len(order) // GROUP, GROUP, columns.shape[1])
    return float(np.sort(groups, axis=1)[:, 2:].sum(dtype=np.float64))


def _tournament(n: int) -> Iterator[np.ndarray]:
    """Rounds of pairs (m, 2) of n players without end: everyone meets everyone before anyone meets again."""
    players = np.arange(n + n % 2)
    half = len(players) // 2
    while True:
        pairs = np.stack([players[:half], players[::-1][:half]], axis=1)
        # with an odd number one rests
        yield np.sort(pairs[(pairs < n).all(axis=1)], axis=1)
        players[1:] = np.roll(players[1:], 1)


def _regroup(columns: np.ndarray, order: np.ndarray, pairs: np.ndarray, least: float) -> float:
    """Halve the eight columns of each pair of stripes in the best way; `order` is changed. The gain."""
    places = (pairs[:, :, None] * GROUP + np.arange(GROUP)).reshape(len(pairs), 2 * GROUP)
    chosen = order[places]
    eight = columns[chosen.T]  # (8, pairs, n_out)
    larger = {(i, j): np.maximum(eight[i], eight[j]) for i, j in _PAIRS}
    both = {(i, j): eight[i] + eight[j] for i, j in _PAIRS}
    value = np.empty((len(_HALVES), len(pairs)))
    for k, half in enumerate(_HALVES):
        value[k] = sum(
            # the two largest of four: the winners of two matches, or both of one
            np.maximum(np.maximum(larger[a, b] + larger[c, d], both[a, b]), both[c, d]).sum(-1, np.float64)
            for a, b, c, d in (half, _other(half))
        )
    best = value.argmax(axis=0)
    gain = value[best, np.arange(len(pairs))] - value[0]
    best[gain <= least] = 0
    arranged = np.array([[*half, *_other(half)] for half in _HALVES])
    order[places] = np.take_along_axis(chosen, arranged[best], axis=1)
    return float(gain[gain > least].sum())


def _other(half: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in range(2 * GROUP) if i not in half)


def permute_head(head: nn.Sequential, *, rounds: int = 100) -> dict[str, ChannelOrder]:
    """Order the channels between the linear layers of a head for 2:4 pruning; its function stays the same.

    The inputs of each linear layer but the first are reordered, and with them the outputs of the layer before
    and the batch norms between. What is computed differs by the rounding of reordered sums only.

    Args:
        head: `nn.Linear` layers with batch norms (`nn.BatchNorm1d`) and elementwise layers between; changed
            in place.
        rounds: see `search_permutation`.

    Returns:
        What was found, by the name of the linear layer; layers whose inputs are no multiple of 4 are left
        out.

    Raises:
        UnsupportedError: a module that may mix channels, a module that stands in two places, or a weight that
            is parametrised.
        ShapeError: layers that do not fit together.
        RangeError: a weight that is not finite.
    """
    modules = list(head.named_children())
    _check_head(modules, len(list(head)))
    found = {}
    producers: list[nn.Module] = []
    for name, module in modules:
        if isinstance(module, nn.Linear):
            if producers and module.in_features % GROUP == 0:
                found[name] = search_permutation(module.weight, rounds=rounds)
                _reorder_inputs(module, found[name].permutation)
                for producer in producers:
                    _reorder_outputs(producer, found[name].permutation)
            producers = [module]
        elif isinstance(module, nn.BatchNorm1d) and producers:
            producers.append(module)
    return found


def _check_head(modules: list[tuple[str, nn.Module]], length: int) -> None:
    """Refuse before anything is changed."""
    if len(modules) != length:
        raise UnsupportedError("a module stands in two places of the head; give each place a copy of its own")
    tensors = [id(tensor) for _, module in modules for tensor in module.parameters()]
    if len(set(tensors)) < len(tensors):
        raise UnsupportedError("two layers of the head share a parameter; give each a copy of its own")
    width: int | None = None
    for name, module in modules:
        # torch's parametrisations, and its older hooks, take the parameter of this name away
        if isinstance(module, nn.Linear) and "weight" not in dict(module.named_parameters(recurse=False)):
            raise UnsupportedError(f"the weight of {name!r} is parametrised; remove that or bake it first")
        # by exact type: a subclass may do anything
        if type(module) is nn.Linear:
            found, width_after = module.in_features, module.out_features
        elif type(module) is nn.BatchNorm1d:
            found, width_after = module.num_features, module.num_features
        elif type(module) in ELEMENTWISE:
            continue
        else:
            raise UnsupportedError(
                f"{name!r} is a {type(module).__name__}, which may mix channels; order the parts of the head "
                "before and after it alone"
            )
        if width is not None and found != width:
            raise ShapeError(f"{name!r} takes {found} channels, the layer before it makes {width}")
        width = width_after


@torch.no_grad()
def _reorder_inputs(linear: nn.Linear, permutation: Tensor) -> None:
    linear.weight.copy_(linear.weight[:, permutation.to(linear.weight.device)])


@torch.no_grad()
def _reorder_outputs(module: nn.Module, permutation: Tensor) -> None:
    # one row a channel: weight and bias, and of a batch norm its statistics; its counter has no rows
    for part in (*module.parameters(), *module.buffers()):
        if part.dim():
            part.copy_(part[permutation.to(part.device)])

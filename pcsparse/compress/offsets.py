"""Offset pruning: drop kernel offsets, so that their pairs are not multiplied and, at best, not searched.

What comes out is the same class with another Spec and weights for the kept offsets only, not zeros.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.carry_over import build, cut_everywhere, fill, refuse_made, refuse_shared
from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.offset_groups import OffsetGroup, Offsets
from pcsparse.compress.offset_scores import OffsetScore, offset_scores
from pcsparse.compress.shared_maps import Chosen, Scope, SharedMaps
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.sparse_tensor import SparseTensor

Keep = float | Mapping[str, float]
"""A share in (0, 1] of the offsets of every group that is `free`; or by group a share (float) or a number of
offsets (int)."""


def prune_offsets(
    model: nn.Module,
    keep: Keep,
    *,
    sweeps: Sequence[SparseTensor],
    scope: Scope = "map",
    score: OffsetScore = "magnitude",
    losses: Losses | None = None,
) -> nn.Module:
    """A network whose convolutions have fewer kernel offsets: those of `model` that matter most.

    With scope "map" all layers that read one kernel map keep the same offsets, so that the map itself is
    searched for these only. With "layer" each has its own: products are saved, the search is not.

    The centre of a kernel whose outputs are its inputs' voxels always stays, and an offset stays or goes with
    its opposite, so that the map remains its own mirror image. Kernels that change the stride are pruned only
    where `keep` names them, one offset at a time: each of their fine voxels has one pair, and without it is
    not read by the strided convolution and gets nothing but the bias, or 0, from the one that leads back.

    Args:
        model: built from a Spec that has `with_offsets`; it is not changed.
        keep: how much of each group stays, see `Keep`; groups that are not named keep all that they have.
            Numbers are rounded up to whole pairs. `SharedMaps.of(model, sweeps)` prints the groups.
        sweeps: calibration inputs, on which pairs are counted.
        scope: "map" or "layer".
        score: what matters, see `offset_scores`.
        losses: for score="taylor".

    Returns:
        A new network of the same class, with `spec` of its own; dtype, device and mode are those of `model`.
        Batch norms keep their statistics: `finetune.recalibrate` renews them. Tuned plans are not taken over.

    Raises:
        RangeError: no sweeps, no such group, a share outside (0, 1], or more offsets than the group has.
        UnsupportedError: the network has no such Spec.
    """
    _spec_of(model)
    maps = SharedMaps.of(model, sweeps, scope=scope)
    counts = kept_counts(maps, keep)
    chosen = choose_offsets(maps, offset_scores(model, maps, score, losses), counts)
    return slice_offsets(model, maps, chosen)


def kept_counts(maps: SharedMaps, keep: Keep) -> dict[str, int]:
    """The number of offsets that each group named in `keep`, or each free one, keeps.

    Raises:
        RangeError: see `prune_offsets`.
    """
    if isinstance(keep, Mapping):
        return {name: _count(maps.group(name), wanted) for name, wanted in keep.items()}
    return {group.name: _count(group, float(keep)) for group in maps.groups if group.free}


def _count(group: OffsetGroup, keep: float) -> int:
    have = len(group.offsets)
    if isinstance(keep, int):
        if not 1 <= keep <= have:
            raise RangeError(
                f"{group.name!r} has {have} offsets, it cannot keep {keep}; write shares as floats"
            )
        wanted = keep
    else:
        if not 0.0 < keep <= 1.0:
            raise RangeError(f"the share that {group.name!r} keeps must be in (0, 1], got {keep}")
        # a share such as 0.7 of 10 must not become 8 by rounding errors
        wanted = math.ceil(round(keep * have, 9))
    return next(width for width in counts_of(group) if width >= wanted)


def counts_of(group: OffsetGroup) -> tuple[int, ...]:
    """The numbers of offsets that a group can keep, ascending."""
    totals = {0 if group.centre is None else 1}
    for unit in group.units:
        totals |= {total + len(unit) for total in totals}
    return tuple(sorted(totals - {0}))


def counts_between(maps: SharedMaps, counts: Mapping[str, int], share: float) -> dict[str, int]:
    """Numbers of offsets a share of the way from all of them to the last ones, as whole pairs allow.

    Args:
        maps: of the whole network.
        counts: that groups keep in the end.
        share: of the way, 0 to 1; 1 gives `counts`.
    """
    found = {}
    for name, last in counts.items():
        group = maps.group(name)
        wanted = len(group.offsets) - share * (len(group.offsets) - last)
        found[name] = next(n for n in counts_of(group) if n >= round(wanted, 9))
    return found


def choose_offsets(
    maps: SharedMaps, scores: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, Offsets]:
    """The centre and the offsets of the highest scores, ascending; of equal ones the first stay.

    Args:
        maps: of the network.
        scores: from `offset_scores`.
        counts: how many offsets to keep, by group; at least so many, where only pairs are there.
    """
    chosen = {}
    for name, count in counts.items():
        group = maps.group(name)
        kept = [] if group.centre is None else [group.centre]
        for i in scores[name].argsort(descending=True, stable=True).tolist():
            if len(kept) < count:
                kept += group.units[i]
        chosen[name] = tuple(sorted(kept))
    return chosen


def slice_offsets(model: nn.Module, maps: SharedMaps, chosen: Chosen) -> nn.Module:
    """The network without the offsets that are not chosen.

    Its outputs are those of `mask_offsets` bit for bit where all features are finite: a row's sum takes the
    products of one offset after the other, and zeros do not change it. (With dataflow "gather_scatter" only
    up to rounding: matrix products of other sizes are summed otherwise.) Gradients of weights are the same up
    to rounding, because the number of their partial sums comes from the number of pairs.

    Raises:
        RangeError: see `SharedMaps.by_layer`.
        UnsupportedError: the model has no Spec with `with_offsets`, other layers than its Spec, as a fused
            network has, or weights that a parametrisation makes or that are another layer's, too.
    """
    spec = _spec_of(model)
    kept = maps.by_layer(chosen)
    for name, part in model.named_modules():
        refuse_made(name, part)
    refuse_shared(model, _cut(maps, kept))
    try:
        sparser_spec = spec.with_offsets(kept)
    except RangeError as error:
        raise UnsupportedError(
            f"the layers of {type(model).__name__} are not those of its Spec ({error}); prune a network "
            "before fuse, and before its layers are replaced"
        ) from error
    sparser = build(model, sparser_spec)
    # nothing of the new network shares memory with the old one
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, places in _places(maps, kept).items():
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight.index_select(0, torch.tensor(places, device=weight.device))
    state = cut_everywhere(model, state)
    wanted = {name: tuple(tensor.shape) for name, tensor in sparser.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != found:
        name = next(key for key in {**wanted, **found} if wanted.get(key) != found.get(key))
        raise UnsupportedError(
            f"{name} should have shape {wanted.get(name)} in the new network, the old one leaves "
            f"{found.get(name)}; its layers are not those of its Spec: prune a network before fuse, "
            "and before its heads are packed"
        )
    return fill(sparser, model, state)


def mask_offsets(model: nn.Module, maps: SharedMaps, chosen: Chosen) -> None:
    """Make the weights of offsets that are not chosen zero, in place: what `slice_offsets` gives, all kept.

    Raises:
        RangeError: see `SharedMaps.by_layer`.
        UnsupportedError: weights to change that a parametrisation makes, or that are another layer's, too;
            nothing is changed then.
    """
    kept = maps.by_layer(chosen)
    refuse_shared(model, _cut(maps, kept))
    places = _places(maps, kept)
    for name in places:
        refuse_made(name, model.get_submodule(name))
    with torch.no_grad():
        for name, stay in places.items():
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight[[i for i in range(weight.shape[0]) if i not in set(stay)]] = 0.0


def _cut(maps: SharedMaps, kept: Mapping[str, Offsets]) -> set[str]:
    """Layers that lose offsets."""
    readers = (reader for group in maps.groups for reader in group.readers)
    return {reader.name for reader in readers if kept.get(reader.name, reader.offsets) != reader.offsets}


def _places(maps: SharedMaps, kept: Mapping[str, Offsets]) -> dict[str, list[int]]:
    """Where the kept offsets stand in the weights of each layer, which may have dropped some before."""
    readers = {reader.name: reader for group in maps.groups for reader in group.readers}
    return {name: [readers[name].offsets.index(k) for k in offsets] for name, offsets in kept.items()}


def _spec_of(model: nn.Module) -> Any:
    spec: Any = getattr(model, "spec", None)
    if not hasattr(spec, "with_offsets"):
        raise UnsupportedError(
            f"{type(model).__name__} has no Spec with a method with_offsets, so none with fewer offsets can "
            "be built; mask_offsets only makes weights zero, which saves nothing"
        )
    return spec

"""The axis of kernel offsets for a sensitivity scan."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.offset_cost import OffsetCost
from pcsparse.compress.offset_scores import OffsetScore, offset_scores
from pcsparse.compress.offsets import choose_offsets, kept_counts, mask_offsets
from pcsparse.compress.shared_maps import Scope, SharedMaps
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn import Linear
from pcsparse.nn.conv import SparseConv
from pcsparse.sparse_tensor import SparseTensor


class OffsetsAxis:
    """Kernel offsets, map by map or layer by layer.

    Weights are masked, which gives what slicing gives. Ratios are shares of offsets, rounded to whole pairs
    and never to none: the centre stays.

    Args:
        model: whose offsets.
        sweeps: calibration inputs, on which pairs are counted. Without them all offsets count as having
            equally many, so that magnitudes alone decide, and multiply-adds are not known.
        scope: "map" prunes all readers of a map together, "layer" each alone.
        score: which offsets go first, see `offset_scores`.
        losses: for score="taylor".
        strided: also kernels that change the stride, where each offset is all that some voxels have.
        cost: where milliseconds come from; it has its own sweeps and scope.

    Raises:
        RangeError: no sweeps in a list of them, a scope other than that of `cost`; see `offset_scores`.
        UnsupportedError: no such convolutions; see `SharedMaps.of`.
    """

    name = "offsets"

    def __init__(
        self,
        model: nn.Module,
        sweeps: Sequence[SparseTensor] | None = None,
        *,
        scope: Scope = "map",
        score: OffsetScore = "magnitude",
        losses: Losses | None = None,
        strided: bool = False,
        cost: OffsetCost | None = None,
    ) -> None:
        if cost is not None and cost.maps.scope != scope:
            raise RangeError(f"the cost was measured with scope={cost.maps.scope!r}, not with {scope!r}")
        self._counted = sweeps is not None or cost is not None
        if cost is not None:
            self._maps = cost.maps
        elif sweeps is not None:
            self._maps = SharedMaps.of(model, sweeps, scope=scope)
        else:
            self._maps = _uncounted(model, scope)
        self._strided = strided
        if not self.sizes():
            raise UnsupportedError(
                f"{type(model).__name__} has no sparse convolution of several offsets that keeps the stride"
            )
        self._scores = offset_scores(model, self._maps, score, losses)
        self._score, self._cost = score, cost

    def sizes(self) -> Mapping[str, int]:
        """Offsets of each map or layer."""
        groups = (group for group in self._maps.groups if group.free or self._strided)
        return {group.name: len(group.offsets) for group in groups}

    def labels(self) -> Mapping[str, str]:
        """The maps that several layers read."""
        return {
            group.name: f"map of {group.name} and {len(group.readers) - 1} more"
            for group in self._maps.groups
            if len(group.readers) > 1
        }

    def kept(self, name: str, ratio: float) -> int:
        """Offsets that stay, rounded up to whole pairs."""
        return kept_counts(self._maps, {name: 1.0 - ratio})[name]

    def cut(self, model: nn.Module, name: str, kept: int) -> None:
        """Zero the weights of the least offsets, in all layers that would lose them."""
        mask_offsets(model, self._maps, choose_offsets(self._maps, self._scores, {name: kept}))

    def facts(self) -> Mapping[str, Any]:
        """How offsets are chosen, and from which pairs."""
        pairs = repr([(group.name, group.pairs) for group in self._maps.groups]) if self._counted else ""
        return {
            "score": self._score,
            "scope": self._maps.scope,
            "pairs": hashlib.sha256(pairs.encode()).hexdigest()[:16] if pairs else "alike",
        }

    def macs(self, name: str, kept: int) -> float | None:
        """Of the sliced network, exact for the sweeps; None without them."""
        if not self._counted:
            return None
        return self._maps.macs(choose_offsets(self._maps, self._scores, {name: kept}))

    def milliseconds(self, name: str, kept: int) -> float | None:
        """Of the sliced network, by the cost; None without one."""
        if self._cost is None:
            return None
        return self._cost.total("ms", choose_offsets(self._maps, self._scores, {name: kept}))


def _uncounted(model: nn.Module, scope: Scope) -> SharedMaps:
    """With one pair for each offset; the maps are those of one voxel."""
    layers = [part for part in model.modules() if isinstance(part, SparseConv | Linear)]
    if not layers:
        raise UnsupportedError(
            f"{type(model).__name__} has no sparse convolution, so it has no kernel offsets"
        )
    first = layers[0]
    channels = first.c_in if isinstance(first, SparseConv) else first.in_features
    feats = torch.zeros(1, channels, dtype=first.weight.dtype, device=first.weight.device)
    voxel = SparseTensor(feats, torch.zeros(1, 4, dtype=torch.int32, device=feats.device))
    maps = SharedMaps.of(model, [voxel], scope=scope)
    groups = (replace(group, pairs=(1.0,) * len(group.offsets)) for group in maps.groups)
    return replace(maps, groups=tuple(groups))

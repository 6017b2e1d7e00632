"""How unequal the rows are that the layers of a network read: what leaving out small ones saves and drops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcsparse.compress.graph_layers import input_of
from pcsparse.compress.voxels import REST, check_rest, voxel_layers
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.nn.conv import Rest
from pcsparse.nn.modes import modes_kept
from pcsparse.ops.importance import rows_kept
from pcsparse.sparse_tensor import SparseTensor

PARTS = 1000
"""Rows are counted in thousandths of a cloud: clouds have any number of them."""

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VoxelImportance:
    """How unequal the rows are that a layer reads, and what leaving the small ones out would save.

    Attributes:
        name: of the layer.
        rows: a sweep, mean.
        pairs: of the map of all rows, a sweep, mean.
        magnitude: (PARTS + 1,) the share of the sum of |features| that the largest i thousandths of the rows
            hold; i thousandths by themselves would, if all were equal.
        pairs_kept: (PARTS + 1,) the share of the pairs that are left where these rows alone are convolved.
    """

    name: str
    rows: float
    pairs: float
    magnitude: tuple[float, ...]
    pairs_kept: tuple[float, ...]

    def magnitude_at(self, share: float) -> float:
        """`magnitude` of a share of rows, in thousandths."""
        return self.magnitude[round(share * PARTS)]

    def pairs_at(self, share: float) -> float:
        """`pairs_kept` of a share of rows, in thousandths."""
        return self.pairs_kept[round(share * PARTS)]


def voxel_importance(
    model: nn.Module, sweeps: Sequence[SparseTensor], rest: Rest = REST
) -> tuple[VoxelImportance, ...]:
    """Look at what layers that can do with some rows read on calibration sweeps, in the network as it is.

    Args:
        model: runs in evaluation mode and gets its own modes back.
        sweeps: calibration inputs.
        rest: what becomes of the other rows: those that keep their centre keep a pair each.

    Raises:
        RangeError: no sweeps, no such `rest`, or a layer that runs more than once or not at all.
    """
    if not sweeps:
        raise RangeError("voxel_importance needs sweeps to look at, got none")
    check_rest(rest)
    layers = voxel_layers(model, rest)
    seen: dict[str, list[_Curves]] = {name: [] for name in layers}
    handles = [
        part.register_forward_pre_hook(_looking(seen[name], rest), with_kwargs=True)
        for name, part in layers.items()
    ]
    try:
        with modes_kept(model), torch.no_grad():
            model.eval()
            for x in sweeps:
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    for name, found in seen.items():
        if len(found) != len(sweeps):
            raise RangeError(
                f"{name} ran {len(found)} times on {len(sweeps)} sweeps; it must run once on each"
            )
    return tuple(_summed(name, found) for name, found in seen.items())


@dataclass(frozen=True, eq=False)
class _Curves:
    """Sums where the largest i thousandths of a sweep's rows are convolved, (PARTS + 1,) float64 each."""

    rows: int
    magnitude: Curve
    pairs: Curve


def _looking(found: list[_Curves], rest: Rest) -> Callable[..., None]:
    def look(part: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: SparseTensor = input_of(inputs, kwargs)
        assert isinstance(part, SubmanifoldConv3d)
        kmap = x.cache.kernel_map(x.coords, x.coords, part.relation, part.offsets)
        scores = backend_of(x.feats).mean_magnitude(x.feats)
        clouds = x.cache.cloud_map(x.coords, x.batch_size)
        order, starts = clouds.pairs.rows_in.long(), clouds.by_output()[1].tolist()
        magnitude, pairs = np.zeros(PARTS + 1), np.zeros(PARTS + 1)
        for begin, end in pairwise(starts):
            rows = order[begin:end]
            # as `top_rows` ranks them
            ranked = rows[scores[rows].argsort(descending=True, stable=True)]
            places = [rows_kept(i / PARTS, end - begin) for i in range(PARTS + 1)]
            magnitude += _up_to(scores[ranked], places)
            pairs += _up_to(kmap.pairs_per_output()[ranked], places)
            if rest == "centre":
                # in a submanifold map every row meets itself
                pairs += len(rows) - np.array(places)
        found.append(_Curves(len(x), magnitude, pairs))

    return look


def _up_to(values: Tensor, places: list[int]) -> Curve:
    """The sums of the first values, for each number of them."""
    sums: Curve = np.zeros(len(values) + 1)
    sums[1:] = np.cumsum(values.double().cpu().numpy())
    return sums[places]


def _summed(name: str, found: list[_Curves]) -> VoxelImportance:
    magnitude = np.sum([curves.magnitude for curves in found], axis=0)
    pairs = np.sum([curves.pairs for curves in found], axis=0)
    return VoxelImportance(
        name=name,
        rows=sum(curves.rows for curves in found) / len(found),
        pairs=float(pairs[-1]) / len(found),
        magnitude=tuple((magnitude / (magnitude[-1] or 1.0)).tolist()),
        pairs_kept=tuple((pairs / (pairs[-1] or 1.0)).tolist()),
    )

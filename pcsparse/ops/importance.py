"""Which rows of a cloud are important: those whose features are large.

Source: Liu et al., "Spatial Pruned Sparse Convolution", NeurIPS 2022 (arXiv 2209.14201).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.operator import operator, runs_plainly

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _chosen(feats: Tensor, clouds: KernelMap, share: float) -> Tensor:
    check_shape("feats", feats, (clouds.n_in, None))
    check_same_device(feats=feats, clouds=clouds.tensors()[1])
    backend = backend_of(feats)
    # the one offset of the map lists the rows cloud after cloud
    order, starts = clouds.pairs.rows_in, clouds.by_output()[1]
    counts = [rows_kept(share, n) for n in clouds.sizes()]
    return backend.top_rows(backend.mean_magnitude(feats), order, starts, device_constant(counts, starts))


@operator("pcsparse::important_rows")
def _important_rows(feats: Tensor, clouds: Sequence[Tensor], share: float) -> Tensor:
    return _chosen(feats, KernelMap.from_tensors(list(clouds)), share)


@_important_rows.register_fake
def _important_rows_fake(feats: Tensor, clouds: Sequence[Tensor], share: float) -> Tensor:
    return feats.new_empty(feats.shape[0], dtype=torch.bool)


def check_share(share: float) -> None:
    """Raise RangeError unless `share` is in (0, 1].

    Raises:
        RangeError: it is not.
    """
    if not 0.0 < share <= 1.0:
        raise RangeError(f"the share of rows that are convolved must be in (0, 1], got {share}")


def rows_kept(share: float, n: int) -> int:
    """How many of n rows are important: the share, rounded up."""
    # 0.7 of 10 must not become 8 by a rounding error
    return min(n, math.ceil(round(share * n, 9)))


def important_rows(feats: Tensor, clouds: KernelMap, share: float) -> Tensor:
    """Mark a share of the rows of each cloud: those with the largest mean of |feats| over their channels.

    Of rows that are equally large the lower ones are taken. A NaN is larger than all numbers. There is no
    gradient: the choice of rows is not differentiable.

    Args:
        feats: (n, c) float.
        clouds: the map that leads every row to its cloud, `CoordCache.cloud_map`.
        share: in (0, 1], rounded up to whole rows cloud by cloud.

    Returns:
        (n,) bool.

    Raises:
        ShapeError: `feats` is not (n, c) with the rows of `clouds`, or has no channels.
        DtypeError: `feats` are no floats.
        RangeError: `share` is out of range.
    """
    check_shape("feats", feats, (clouds.n_in, None))
    check_dtype("feats", feats, *_FLOATS)
    if feats.shape[1] == 0:
        raise ShapeError("feats must have at least 1 channel to tell rows apart, got none")
    check_share(share)
    feats = feats.detach()
    if runs_plainly(feats):
        return _chosen(feats, clouds, float(share))
    if feats.is_meta:
        # what the host must know of the clouds is known before a prepared network runs
        clouds.sizes()
    mask: Tensor = _important_rows(feats, clouds.tensors(), float(share))
    return mask

"""The peer: what a good afternoon of plain torch gives, gather - mm - scatter one offset after the other.

Written to be fast within torch: the lists are int64 and made once a map, the centre of a submanifold kernel
is a plain matrix product, gradients are written by hand (autograd adds up one full-size gradient an
offset), maps use the symmetry of the kernel and one vectorised binary search.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError


@dataclass(frozen=True, eq=False)
class PlainMap:
    """A kernel map as plain torch wants it.

    Attributes:
        lists: (rows_in, rows_out) int64, one pair of lists an offset.
        n_out: output rows.
        centre: the offset whose lists are the identity, or None.
    """

    lists: tuple[tuple[Tensor, Tensor], ...]
    n_out: int
    centre: int | None

    @staticmethod
    def of(pairs: Pairs, n_out: int, symmetric: bool) -> "PlainMap":
        """Convert lists; those of a symmetric map have the identity in the middle."""
        rows_in, rows_out = pairs.rows_in.long(), pairs.rows_out.long()
        bounds = pairs.starts.tolist()
        lists = tuple((rows_in[a:b], rows_out[a:b]) for a, b in pairwise(bounds))
        return PlainMap(lists, n_out, len(lists) // 2 if symmetric else None)


def _forward(feats: Tensor, weight: Tensor, plain: PlainMap) -> Tensor:
    # 16 bits are too few to add up in
    sums = torch.float32 if feats.dtype == torch.bfloat16 else feats.dtype
    if plain.centre is None:
        out = feats.new_zeros(plain.n_out, weight.shape[2], dtype=sums)
    else:
        out = (feats @ weight[plain.centre]).to(sums)
    for k, (rows_in, rows_out) in enumerate(plain.lists):
        if k != plain.centre and rows_in.numel():
            out.index_add_(0, rows_out, (feats.index_select(0, rows_in) @ weight[k]).to(sums))
    return out.to(feats.dtype)


class _PlainConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor, plain: PlainMap) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.plain = plain
        return _forward(feats, weight, plain)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        feats, weight = ctx.saved_tensors
        plain: PlainMap = ctx.plain
        needs_feats, needs_weight, _ = ctx.needs_input_grad
        sums = torch.float32 if feats.dtype == torch.bfloat16 else feats.dtype
        grad_feats = torch.zeros_like(feats, dtype=sums) if needs_feats else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for k, (rows_in, rows_out) in enumerate(plain.lists):
            if not rows_in.numel():
                continue
            centre = k == plain.centre
            part = grad_out if centre else grad_out.index_select(0, rows_out)
            if grad_weight is not None:
                torch.mm((feats if centre else feats.index_select(0, rows_in)).T, part, out=grad_weight[k])
            if grad_feats is not None and centre:
                grad_feats += part @ weight[k].T
            elif grad_feats is not None:
                grad_feats.index_add_(0, rows_in, (part @ weight[k].T).to(sums))
        return None if grad_feats is None else grad_feats.to(feats.dtype), grad_weight, None


def plain_conv(feats: Tensor, weight: Tensor, plain: PlainMap) -> Tensor:
    """(n_in, c_in), (k, c_in, c_out) -> (n_out, c_out); differentiable."""
    out: Tensor = _PlainConv.apply(feats, weight, plain)
    return out


def plain_map(coords: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    """Output coordinates and pairs, by the faster of the two ways below.

    Raises:
        UnsupportedError: neither submanifold of odd size nor a partition.
    """
    if relation.is_symmetric:
        return coords, plain_submanifold_map(coords, relation)
    if relation.is_partition:
        return plain_strided_map(coords, relation)
    raise UnsupportedError(f"plain torch has no map for {relation}")


def plain_submanifold_map(coords: Tensor, relation: Relation) -> Pairs:
    """The map of an odd submanifold kernel by sort and binary search.

    Args:
        coords: (n, 4) int32; where they ascend by key already, nothing is sorted.
        relation: submanifold, odd.
    """
    keys = pack(coords)
    n, half = keys.numel(), relation.volume // 2
    order = None
    if not bool((keys[1:] > keys[:-1]).all()):
        keys, order = torch.sort(keys)
    wanted = keys + relation.key_deltas()[:half, None]
    found = torch.searchsorted(keys, wanted).clamp_(max=max(n - 1, 0))
    # nonzero runs row by row: grouped by offset, ascending in the output
    offset, rows_out = torch.nonzero(keys[found] == wanted, as_tuple=True)
    rows_in = found[offset, rows_out]
    counts = torch.bincount(offset, minlength=half)
    lists = torch.split(torch.stack([rows_in, rows_out]), counts.tolist(), dim=1)
    middle = torch.arange(n).expand(2, n)
    both = torch.cat([*lists, middle, *(part.flip(0) for part in reversed(lists))], dim=1)
    counts = torch.cat([counts, torch.tensor([n]), counts.flip(0)])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    both = both if order is None else order[both]
    return Pairs(both[0].int(), both[1].int(), starts)


def plain_expanded_map(coarse: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    """Fine coordinates and map of the generative way: no two coarse voxels reach one, so nothing is searched.

    Args:
        coarse: (n, 4) int32.
        relation: with `is_partition`.

    Returns:
        (n * k, 4) int32, those of one coarse voxel one after the other, and the pairs.

    Raises:
        UnsupportedError: kernels overlap.
    """
    if not relation.is_partition:
        raise UnsupportedError(f"plain torch has no generative map for {relation}")
    n, k = len(coarse), relation.volume
    steps = coarse.new_tensor([[0, *step] for step in relation.steps()])
    fine = (coarse * coarse.new_tensor([1, *relation.stride]))[:, None] + steps
    rows = torch.arange(n, dtype=torch.int32)
    offsets = torch.arange(k, dtype=torch.int32)[:, None]
    return fine.view(-1, 4), Pairs(rows.repeat(k), (rows * k + offsets).view(-1), torch.arange(k + 1) * n)


def plain_strided_map(coords: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    """Coarse coordinates and map of a kernel that partitions the fine level (kernel size = stride).

    Args:
        coords: (n, 4) int32.
        relation: with `is_partition`.

    Returns:
        (m, 4) int32 ascending by key, and the pairs.
    """
    stride, first = coords.new_tensor([1, *relation.stride]), coords.new_tensor([0, *relation.steps()[0]])
    floor = torch.div(coords - first, stride, rounding_mode="floor")
    _, rows_out = torch.unique(pack(floor), return_inverse=True)
    n_out = int(rows_out.max()) + 1 if rows_out.numel() else 0
    coarse = coords.new_zeros(n_out, 4)
    coarse[rows_out] = floor
    weight = torch.tensor([0, relation.stride[1] * relation.stride[2], relation.stride[2], 1])
    code = ((coords - first - floor * stride) * weight).sum(dim=1)
    steps = coords.new_tensor([[0, *step] for step in relation.steps()])
    offset = torch.argsort(((steps - first) * weight).sum(dim=1))[code]
    order = torch.argsort(offset * max(n_out, 1) + rows_out)
    counts = torch.bincount(offset, minlength=relation.volume)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return coarse, Pairs(order.int(), rows_out[order].int(), starts)

"""What the operators of torch, and of this package, do to the channels of tensors.

A rule answers where the channels of a result stand and which they are, or None where it cannot say: an
operator that mixes channels, splits them, or makes something of zeros. Channels that were removed are zeros
in the masked network, and must count for nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcsparse.compress.graph_numbers import Applied, Channels
from pcsparse.compress.graph_shapes import (
    expanded,
    indexed,
    joined,
    laid,
    permuted,
    reduced,
    reshaped,
    sliced,
    unsqueezed,
)

_aten: Any = torch.ops.aten
_own: Any = torch.ops.pcsparse


Rule = Callable[[Applied], Channels | None]


def follow(call: Applied) -> Channels | None:
    """The channels of an operator's result, or None if they cannot be told."""
    rule = _RULES.get(call.func)
    return None if rule is None else rule(call)


def makes_zeros(func: Any, args: tuple[Any, ...], is_zero: Callable[[Any], bool]) -> bool:
    """Whether what an operator makes is all zeros, whatever the features are."""
    return func in _ZEROS or (func in _VIEWS and is_zero(args[0]))


def _same(call: Applied) -> Channels | None:
    return call.source


def _on_maps(call: Applied) -> Channels | None:
    """A filter over the last two dimensions."""
    source = call.source
    return source if source and source.axis == call.args[0].dim() - 3 else None


def _on_rows(call: Applied) -> Channels | None:
    """Rows (n, c) become other rows."""
    source = call.source
    return source if source and source.axis == 1 else None


def _clamped(call: Applied) -> Channels | None:
    return call.source if call.argument(1, "min_val", -1) <= 0 <= call.argument(2, "max_val", 1) else None


def _filled(call: Applied) -> Channels | None:
    source = call.source
    if source is None or call.args[2] != 0:
        return None
    return source if _is_alike(call.args[1], call.args[0], source) else None


def _is_alike(other: Tensor, tensor: Tensor, source: Channels) -> bool:
    """Whether `other`, as it is broadcast over `tensor`, is the same for all its channels."""
    place = source.axis - tensor.dim() + other.dim()
    return place < 0 or other.shape[place] == 1


def _padded(call: Applied) -> Channels | None:
    source, pad = call.source, call.args[1]
    if source is None or call.argument(2, "value", 0) != 0:
        return None
    from_last = call.args[0].dim() - 1 - source.axis
    around = pad[2 * from_last : 2 * from_last + 2]
    return None if any(around) else source


def _summed(call: Applied) -> Channels | None:
    return _combined(call, scales=False)


def _multiplied(call: Applied) -> Channels | None:
    return _combined(call, scales=True)


def _divided(call: Applied) -> Channels | None:
    # what is removed must not be divided by
    return _combined(call, scales=True) if call.source and call.known(call.args[1]) is None else None


def _combined(call: Applied, *, scales: bool) -> Channels | None:
    """Two tensors, channel by channel; one that is the same for all channels may scale, but not shift."""
    pair = call.args[:2]
    if not isinstance(pair[1], Tensor) or not isinstance(pair[0], Tensor):
        return call.source if scales and isinstance(pair[0], Tensor) else None
    found = [call.known(tensor) for tensor in pair]
    if found[0] is None:
        pair, found = pair[::-1], found[::-1]
    tensor, other, source = pair[0], pair[1], found[0]
    if source is None:
        return None
    axis = source.axis + call.out.dim() - tensor.dim()
    place = source.axis - tensor.dim() + other.dim()
    fits = place >= 0 and other.shape[place] == len(source.numbers)
    if fits and call.is_given(other):
        call.trace.tie(source.numbers, call.trace.given(len(source.numbers)))
    elif fits and found[1] is not None and found[1].axis == place:
        call.trace.tie(source.numbers, found[1].numbers)
    elif not scales or found[1] is not None or not _is_alike(other, tensor, source):
        return None
    return Channels(axis, source.numbers)


_ZEROS = frozenset((_aten.zeros.default, _aten.new_zeros.default, _aten.zeros_like.default))
_VIEWS = frozenset((_aten.detach.default, _aten.alias.default, _aten.view.default, _aten.clone.default))

_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            _aten.relu.default, _aten.relu_.default, _aten.leaky_relu.default, _aten.leaky_relu_.default,
            _aten.silu.default, _aten.silu_.default, _aten.gelu.default, _aten.elu.default,
            _aten.tanh.default, _aten.hardswish.default, _aten.neg.default, _aten.abs.default,
            _aten.clone.default, _aten.detach.default, _aten.alias.default, _aten._to_copy.default,
        ),
        _same,
    ),
    **dict.fromkeys((_aten.hardtanh.default, _aten.hardtanh_.default), _clamped),
    **dict.fromkeys((_aten.masked_fill.Scalar, _aten.masked_fill_.Scalar), _filled),
    **dict.fromkeys(
        (_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.squeeze.dim,
         _aten.squeeze.default, _aten.squeeze.dims),
        reshaped,
    ),
    _aten.unsqueeze.default: unsqueezed,
    **dict.fromkeys((_aten.permute.default, _aten.transpose.int, _aten.t.default), permuted),
    **dict.fromkeys(
        (_aten.mean.dim, _aten.sum.dim_IntList, _aten.amax.default, _aten.max.dim), reduced
    ),
    _aten.cat.default: joined,
    **dict.fromkeys((_aten.add.Tensor, _aten.add_.Tensor, _aten.sub.Tensor, _aten.sub_.Tensor), _summed),
    **dict.fromkeys((_aten.mul.Tensor, _aten.mul_.Tensor), _multiplied),
    **dict.fromkeys((_aten.div.Tensor, _aten.div_.Tensor), _divided),
    _aten.index.Tensor: indexed,
    _aten.index_select.default: sliced,
    **dict.fromkeys((_aten.slice.Tensor, _aten.select.int), sliced),
    _aten.expand.default: expanded,
    _aten.constant_pad_nd.default: _padded,
    **dict.fromkeys((_aten.index_copy.default, _aten.index_put.default, _aten.index_put_.default), laid),
    **dict.fromkeys(
        (
            _aten.max_pool2d_with_indices.default, _aten.avg_pool2d.default,
            _aten._adaptive_avg_pool2d.default, _aten.adaptive_max_pool2d.default,
            _aten.upsample_nearest2d.default, _aten.upsample_nearest2d.vec,
            _aten.upsample_bilinear2d.default, _aten.upsample_bilinear2d.vec,
        ),
        _on_maps,
    ),
    **dict.fromkeys(
        (_own.gather_rows.default, _own.sum_pool.default, _own.max_pool.default, _own.trilinear.default),
        _on_rows,
    ),
}  # fmt: skip

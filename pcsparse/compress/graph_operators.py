"""What the operators of torch, and of this package, do to the channels of tensors.

A rule answers where the channels of a result stand and which they are, or None where it cannot say: an
operator that mixes channels, splits them, or makes something of zeros. Channels that were removed are zeros
in the masked network, and must count for nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pcsparse.compress.graph_numbers import Channels, Numbers, Trace

_aten: Any = torch.ops.aten
_own: Any = torch.ops.pcsparse


@dataclass(frozen=True, eq=False)
class Applied:
    """An operator on tensors of which some are known.

    Attributes:
        func: the operator.
        args: its arguments.
        kwargs: those that have names.
        out: its result; of several, the first.
        known: the channels of a tensor, or None; takes anything.
        is_given: whether a tensor is made of the network's input alone, and has no channels that are known.
        is_zero: whether a tensor is all zeros.
        trace: what new channels are counted in.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Tensor
    known: Callable[[Any], Channels | None]
    is_given: Callable[[Any], bool]
    is_zero: Callable[[Any], bool]
    trace: Trace

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def source(self) -> Channels | None:
        """The channels of the first argument."""
        return self.known(self.args[0])


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


def _reshaped(call: Applied) -> Channels | None:
    """Of the flat index of an element, channel = (index // inner) % c; so it is with each new dimension."""
    source, old, new = call.source, call.args[0].shape, call.out.shape
    if source is None or call.out.numel() == 0:
        return None
    c, inner = old[source.axis], prod(old[source.axis + 1 :])

    def folded(axis: int) -> Numbers | None:
        size, step = new[axis], prod(new[axis + 1 :])
        if inner % step or (size * step) % (c * inner):
            return None
        return tuple(source.numbers[j * step // inner % c] for j in range(size))

    # where it stands as it was before all else, and the rows last
    alone = [axis for axis in range(len(new)) if new[axis] == c and prod(new[axis + 1 :]) == inner]
    for axis in (*(axis for axis in alone if axis), *range(1, len(new)), *alone):
        numbers = folded(axis)
        if numbers is not None:
            return Channels(axis, numbers)
    return None


def _unsqueezed(call: Applied) -> Channels | None:
    source = call.source
    dim = call.args[1] % call.out.dim()
    return source and Channels(source.axis + (dim <= source.axis), source.numbers)


def _permuted(call: Applied) -> Channels | None:
    source, dims = call.source, call.args[0].dim()
    if call.func is _aten.permute.default:
        order = [dim % dims for dim in call.args[1]]
    else:
        order = list(range(dims))
        first, second = call.args[1:3] if call.func is _aten.transpose.int else (0, dims - 1)
        order[first], order[second] = order[second], order[first]
    return source and Channels(order.index(source.axis), source.numbers)


def _reduced(call: Applied) -> Channels | None:
    source, dims = call.source, call.args[0].dim()
    over = call.argument(1, "dim")
    over = [over] if isinstance(over, int) else over
    if source is None or not over:
        return None
    gone = {dim % dims for dim in over}
    if source.axis in gone:
        return None
    before = 0 if call.argument(2, "keepdim", False) else sum(dim < source.axis for dim in gone)
    return Channels(source.axis - before, source.numbers)


def _joined(call: Applied) -> Channels | None:
    parts = call.args[0]
    dim = call.argument(1, "dim", 0) % call.out.dim()
    found = [call.known(part) for part in parts]
    axes = {known.axis for known in found if known}
    if len(axes) != 1:
        return None
    (axis,) = axes
    if axis != dim:
        # rows below each other: what stands in one column is one channel
        numbers = [known.numbers for known in found if known]
        if len(numbers) < len(parts):
            return None
        for other in numbers[1:]:
            call.trace.tie(numbers[0], other)
        return Channels(axis, numbers[0])
    joined: Numbers = ()
    for part, known in zip(parts, found, strict=True):
        if known is None and not call.is_given(part):
            return None
        joined += known.numbers if known else call.trace.given(part.shape[dim])
    return Channels(dim, joined)


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


def _indexed(call: Applied) -> Channels | None:
    """tensor[rows] and tensor[mask] along the first dimension."""
    source, indices = call.source, call.args[1]
    if source is None or len(indices) != 1 or indices[0] is None:
        return None
    index = indices[0]
    gone, made = (index.dim(), 1) if index.dtype in (torch.bool, torch.uint8) else (1, index.dim())
    return Channels(source.axis - gone + made, source.numbers) if source.axis >= gone else None


def _sliced(call: Applied) -> Channels | None:
    source = call.source
    dim = call.argument(1, "dim", 0) % call.args[0].dim()
    # a slice of channels has numbers in its code that no Spec changes
    if source is None or dim == source.axis:
        return None
    less = int(call.func is _aten.select.int and dim < source.axis)
    return Channels(source.axis - less, source.numbers)


def _expanded(call: Applied) -> Channels | None:
    source = call.source
    if source is None:
        return None
    axis = source.axis + call.out.dim() - call.args[0].dim()
    return Channels(axis, source.numbers) if call.out.shape[axis] == len(source.numbers) else None


def _laid(call: Applied) -> Channels | None:
    """Rows laid into zeros."""
    if not call.is_zero(call.args[0]):
        return None
    if call.func is _aten.index_copy.default:
        dim, rows = call.args[1] % call.out.dim(), call.known(call.args[3])
        return rows if rows and rows.axis != dim else None
    indices, values = call.args[1:3]
    rows = call.known(values)
    lead = all(index is not None and index.dim() == 1 for index in indices)
    if rows is None or not lead or (rows.axis, values.dim(), call.out.dim()) != (1, 2, len(indices) + 1):
        return None
    return Channels(call.out.dim() - 1, rows.numbers)


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
        _reshaped,
    ),
    _aten.unsqueeze.default: _unsqueezed,
    **dict.fromkeys((_aten.permute.default, _aten.transpose.int, _aten.t.default), _permuted),
    **dict.fromkeys(
        (_aten.mean.dim, _aten.sum.dim_IntList, _aten.amax.default, _aten.max.dim), _reduced
    ),
    _aten.cat.default: _joined,
    **dict.fromkeys((_aten.add.Tensor, _aten.add_.Tensor, _aten.sub.Tensor, _aten.sub_.Tensor), _summed),
    **dict.fromkeys((_aten.mul.Tensor, _aten.mul_.Tensor), _multiplied),
    **dict.fromkeys((_aten.div.Tensor, _aten.div_.Tensor), _divided),
    _aten.index.Tensor: _indexed,
    _aten.index_select.default: _sliced,
    **dict.fromkeys((_aten.slice.Tensor, _aten.select.int), _sliced),
    _aten.expand.default: _expanded,
    _aten.constant_pad_nd.default: _padded,
    **dict.fromkeys((_aten.index_copy.default, _aten.index_put.default, _aten.index_put_.default), _laid),
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

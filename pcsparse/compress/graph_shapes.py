"""Where channels stand after an operator that moves, joins or picks elements, see `graph_operators`."""

from math import prod
from typing import Any

import torch

from pcsparse.compress.graph_numbers import Applied, Channels, Numbers

_aten: Any = torch.ops.aten


def reshaped(call: Applied) -> Channels | None:
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


def unsqueezed(call: Applied) -> Channels | None:
    """A new dimension of one."""
    source = call.source
    dim = call.args[1] % call.out.dim()
    return source and Channels(source.axis + (dim <= source.axis), source.numbers)


def permuted(call: Applied) -> Channels | None:
    """Dimensions in another order."""
    source, dims = call.source, call.args[0].dim()
    if call.func is _aten.permute.default:
        order = [dim % dims for dim in call.args[1]]
    else:
        order = list(range(dims))
        first, second = call.args[1:3] if call.func is _aten.transpose.int else (0, dims - 1)
        order[first], order[second] = order[second], order[first]
    return source and Channels(order.index(source.axis), source.numbers)


def reduced(call: Applied) -> Channels | None:
    """A mean, a sum or a maximum over dimensions."""
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


def joined(call: Applied) -> Channels | None:
    """Channels side by side, or rows below each other."""
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


def indexed(call: Applied) -> Channels | None:
    """tensor[rows] and tensor[mask] along the first dimension."""
    source, indices = call.source, call.args[1]
    if source is None or len(indices) != 1 or indices[0] is None:
        return None
    index = indices[0]
    gone, made = (index.dim(), 1) if index.dtype in (torch.bool, torch.uint8) else (1, index.dim())
    return Channels(source.axis - gone + made, source.numbers) if source.axis >= gone else None


def sliced(call: Applied) -> Channels | None:
    """A part of another dimension than that of the channels."""
    source = call.source
    dim = call.argument(1, "dim", 0) % call.args[0].dim()
    # a slice of channels has numbers in its code that no Spec changes
    if source is None or dim == source.axis:
        return None
    less = int(call.func is _aten.select.int and dim < source.axis)
    return Channels(source.axis - less, source.numbers)


def expanded(call: Applied) -> Channels | None:
    """Copies along other dimensions than that of the channels."""
    source = call.source
    if source is None:
        return None
    axis = source.axis + call.out.dim() - call.args[0].dim()
    return Channels(axis, source.numbers) if call.out.shape[axis] == len(source.numbers) else None


def laid(call: Applied) -> Channels | None:
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

"""What kernels have made of weights that will not change, so that they need not make it at every call.

A kernel that reads weights in another order than they lie in lays them out anew in each call: nobody can say
that a tensor has not changed since the last one. Torch counts what is changed in place, but not what is
changed through `.data` or through memory that is shared. So it is done for those tensors only whose owner
says that this does not happen (`nn.fuse`, for its copies).
"""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class _State:
    """What was made of a tensor as it was once.

    Attributes:
        facts: version, address, sizes, strides and dtype.
        values: its memory, which no other tensor is given as long as this one holds it.
        made: by its key.
    """

    facts: tuple[Any, ...]
    values: Tensor | None
    made: dict[Hashable, Any]


_NOTHING = _State((), None, {})


@dataclass(eq=False)
class _Lasting:
    """One such tensor.

    Attributes:
        itself: to see that the id is still its own.
        state: set as one, as threads may share a network.
    """

    itself: "weakref.ref[Tensor]"
    state: _State = _NOTHING


_LASTING: dict[int, _Lasting] = {}


def will_last(tensor: Tensor) -> None:
    """Say that nobody changes a tensor in ways that torch does not count.

    Changes in place and `load_state_dict` are counted; what was made before them is made again. A tensor that
    `.to()`, `.half()` and the like give other memory is met again, too. As long as a tensor wants a gradient
    nothing is kept: torch's fused optimizers change weights and do not count it. Nor of inference tensors.

    Args:
        tensor: a weight or a bias, any dtype and device.
    """
    number = id(tensor)
    _LASTING[number] = _Lasting(weakref.ref(tensor, lambda _: _LASTING.pop(number, None)))


def made_of(tensor: Tensor, key: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` gives; if `tensor` will last, from the last time it was asked for.

    Args:
        tensor: all that `make` reads.
        key: tells results of one tensor apart.
        make: must not give `tensor` itself, which would never end then.
    """
    lasting = _LASTING.get(id(tensor))
    if lasting is None or lasting.itself() is not tensor:
        return make()
    if tensor.requires_grad or tensor.is_inference():
        lasting.state = _NOTHING
        return make()
    state = lasting.state
    facts = (tensor._version, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
    if facts != state.facts:
        state = lasting.state = _State(facts, tensor.detach(), {})
    if key not in state.made:
        state.made[key] = make()
    kept: Made = state.made[key]
    return kept

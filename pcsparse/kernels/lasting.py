"""What kernels have made of weights that will not change, so that they need not make it at every call.

A kernel that reads weights in another order than they lie in lays them out anew in each call: nobody can say
that a tensor has not changed since the last one. Torch counts what is changed in place, but not what is
changed through `.data` or through memory that is shared. So it is done for those tensors only whose owner
says that this does not happen (`nn.fuse`, for its copies).
"""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

Made = TypeVar("Made")


@dataclass(eq=False)
class _Lasting:
    """One such tensor.

    Attributes:
        itself: to see that the id is still its own.
        values: its memory, which no other tensor is given as long as this one holds it; None before the
            first use.
        facts: version, address, sizes, strides and dtype when the rest was made.
        made: by its key.
    """

    itself: "weakref.ref[Tensor]"
    values: Tensor | None = None
    facts: tuple[Any, ...] = ()
    made: dict[Hashable, Any] = field(default_factory=dict)


_LASTING: dict[int, _Lasting] = {}


def will_last(tensor: Tensor) -> None:
    """Say that nobody changes a tensor in ways that torch does not count.

    Changes in place and `load_state_dict` are counted; what was made before them is made again. A tensor that
    `.to()`, `.half()` and the like give other memory is met again, too.

    Args:
        tensor: a weight or a bias, any dtype and device. Of inference tensors, whose changes torch does not
            count, nothing is kept.
    """
    number = id(tensor)
    if not tensor.is_inference():
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
    facts = (tensor._version, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
    if facts != lasting.facts:
        lasting.values, lasting.facts, lasting.made = tensor.detach(), facts, {}
    made = lasting.made
    if key not in made:
        made[key] = make()
    kept: Made = made[key]
    return kept

"""Build all maps of a network before it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pcsparse.errors import PcsparseError, UnsupportedError
from pcsparse.nn.copies import Module, copy_with, without_hooks
from pcsparse.sparse_tensor import SparseTensor

# layers that keep shape and dtype, and for which torch thinks long on the "meta" device
_KEEPING = frozenset(
    {functional.batch_norm, functional.relu, functional.leaky_relu, functional.dropout, torch.relu}
)


class _ShapesOnly(TorchFunctionMode):
    """Answers for layers that keep shape and dtype: what comes in goes out."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _KEEPING and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def meta_copy(module: Module) -> Module:
    """A copy whose parameters and buffers have shapes but no values; `module` may run meanwhile elsewhere.

    It has no hooks: those of a user would meet tensors without values. Weights that a hook makes anew before
    each call (`torch.nn.utils.weight_norm`, `spectral_norm`, pruning masks) are there, as shapes, and so are
    results with a history that the module keeps.
    """
    memo = without_hooks(module)
    for parameter in module.parameters():
        shadow = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        memo[id(parameter)] = shadow
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and (value.requires_grad or _is_made(part, name)):
                memo.setdefault(id(value), torch.empty_like(value, device="meta", requires_grad=False))
    return copy_with(module, memo, lambda result: torch.empty_like(result, device="meta"))


@contextmanager
def without_values(module: nn.Module) -> Iterator[None]:
    """Run a copy of `module` without gradients, on features that have a shape alone.

    Raises:
        UnsupportedError: it asks for values, or puts features together with tensors that have some.
    """
    try:
        with torch.no_grad():
            yield
    except RuntimeError as error:
        if isinstance(error, PcsparseError) or "meta" not in str(error):
            raise
        raise UnsupportedError(
            f"{type(module).__name__} does not run on features without values, from which its layers and "
            f"maps are read ({error}); make tensors that meet features buffers (persistent=False keeps them "
            "out of checkpoints), and let no value of a feature decide"
        ) from error


def _is_made(part: nn.Module, name: str) -> bool:
    """Whether a hook makes the attribute: `weight` of `weight_orig`, or of `weight_g` and `weight_v`."""
    parameters = [other for other, _ in part.named_parameters(recurse=False)]
    return any(f"{name}_{source}" in parameters for source in ("orig", "g", "v"))


def prepare(module: nn.Module, x: SparseTensor, *, like: SparseTensor | None = None) -> SparseTensor:
    """Fill the cache of `x` with every level and map that `module(x)` will ask for.

    They are made one by one as the module asks, and on a GPU the host waits once a level, as it must know how
    long each is. What another cloud was asked for is known: with `like` the same is made at once, with one
    wait for all levels (`CachePlan.fill`), before the module runs and asks for what is missing still.

    The module runs once with features and parameters on the "meta" device: coordinates and maps are real,
    arithmetic is not done. So map time can be measured apart, and `torch.compile` finds the maps ready: a
    compiled network needs this call for every cloud, as maps cannot be built while a graph is traced, and
    coordinates that are edited in place afterwards leave it with the maps of before. Hooks do not run; where
    one changes coordinates, the maps that it asks for are built in forward.

    Args:
        module: any module that takes a SparseTensor.
        x: its input; only the cache changes.
        like: an input that the module was run or prepared on before; only its cache is read. What other
            modules have asked that cache for is made, too, of coordinates of `like` and levels of them: a
            head on a coarse level gets that level's maps and coarser ones, no second set of finer ones. Where
            it was asked for nothing of the coordinates of `like`, nothing is made ahead.

    Returns:
        `x`.

    Raises:
        UnsupportedError: the module does not run on features without values, or the cache of `like` has
            several coordinate sets that no layer has made.
    """
    if like is not None:
        _make_all_of(like, x)
    with without_values(module), _ShapesOnly():
        meta_copy(module)(x.replace(x.feats.to("meta")))
    return x


def _make_all_of(like: SparseTensor, x: SparseTensor) -> None:
    plan = like.cache.plan()
    if len(plan.given) > 1:
        raise UnsupportedError(
            f"the cache of `like` has {len(plan.given)} coordinate sets that no layer has made, and `x` "
            "stands for one; leave `like` out, or give an input whose network reads one"
        )
    # a head's input is itself a level, whose finer ones `x` does not stand for
    known = [token for token in range(plan.n_sets) if like.cache.set(token) is like.coords]
    for token in known[-1:]:
        plan.beginning_at(token).fill(x.cache, {0: x.coords})

"""Tensors of the device, and what torch's operations do with them."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves, tree_leaves, tree_map

from tests.cuda_division import divided
from tests.mock_cuda import graphs, waits

DEVICE = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_aten = torch.ops.aten
_COPIES = (_aten.copy_.default, _aten._to_copy.default)
# those of the device, by their address: torch makes new objects of them
GENERATORS: dict[int, torch.Generator] = {}
# a tensor of the device takes indices of the host, and makes a copy of them
_INDEXED = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index)


class MockTensor(torch.Tensor):
    """A tensor of the device.

    Attributes:
        held: where its numbers are.
    """

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "MockTensor":
        # a view of what was made outside of inference mode is no tensor of that mode within it either
        with torch.inference_mode(held.is_inference()):
            made: MockTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=DEVICE,
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.held!r} on {self.device}"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        waits.note("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy; use Tensor.cpu()")
        waits.note("numpy")
        return self.held.numpy(force=True)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "MockTensor":
        if id(self) not in memo:
            made = MockTensor(self.held.clone())
            if hasattr(self, "_is_param"):
                made._is_param = True  # type: ignore[attr-defined]
            memo[id(self)] = made.requires_grad_(self.requires_grad)
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)


class Factories(TorchDispatchMode):
    """What is made of nothing, where the device is named."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation of torch with tensors of the device, or whose result is to be one."""
    # `torch.tensor` makes them of the host's; each thread is asked, as are those of autograd
    torch._C._set_only_lift_cpu_tensors(True)
    given = [leaf for leaf in arg_tree_leaves(*args, **kwargs) if isinstance(leaf, torch.Tensor)]
    if any(tensor.is_meta for tensor in given):
        # shapes only, of all
        return func(*_shapes(args), **_shapes(kwargs))
    if func.namespace == "pcsparse":
        # the package's own: its kernels see the tensors as they are
        with Factories():
            return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
    ours = [tensor for tensor in given if isinstance(tensor, MockTensor)]
    there = _goes_there(kwargs.get("device"), bool(ours))
    if func is _aten._pin_memory.default:
        return waits.pinned(args[0].clone())
    if func is _aten.is_pinned.default:
        return waits.is_pinned(args[0])
    _refuse_others(func, given, ours)
    if ours or there:
        waits.look(func, args, kwargs, MockTensor)
    options = dict(kwargs)
    if there and options.get("device") is not None:
        options["device"] = _CPU
    if there:
        _refuse_generator(func, options)
    pin = options.pop("pin_memory", None)
    how = func if any(one.dim() == 0 for one in ours[1:]) else _AS_THERE.get(func, func)
    out = graphs.noted(
        how if there else func,
        held(args),
        held(options),
        there=bool(ours) or there,
        writes=func._schema.is_mutable,
    )
    if not there:
        return waits.pinned(out) if pin else out
    written = _written(func, args, kwargs)
    return mocked(out) if written is None else written


def held(value: Any) -> Any:
    """The same, with the memory of the device's tensors in their place."""

    def memory(one: Any) -> Any:
        if isinstance(one, MockTensor):
            return one.held
        if is_dataclass(one) and not isinstance(one, type):
            parts = {field.name: held(getattr(one, field.name)) for field in fields(one) if field.init}
            return replace(one, **parts)
        return one

    return tree_map(memory, value)


def _shapes(value: Any) -> Any:
    return tree_map(lambda one: one.held.to("meta") if isinstance(one, MockTensor) else one, value)


def mocked(value: Any) -> Any:
    """The same, with its tensors on the device."""

    def there(one: Any) -> Any:
        return MockTensor(one) if isinstance(one, torch.Tensor) and not isinstance(one, MockTensor) else one

    return tree_map(there, value)


def refuse_hosts(name: str, given: Any) -> None:
    """Fail where a kernel is given memory of the host, whose address is a fault without a name there."""
    for one in tree_leaves(given):
        if isinstance(one, torch.Tensor) and not isinstance(one, MockTensor):
            raise AssertionError(f"kernel {name} was given a tensor on {one.device}")


def _goes_there(asked: Any, ours: bool) -> bool:
    return ours if asked is None else torch.device(asked).type == DEVICE.type


def _refuse_others(func: Any, given: list[torch.Tensor], ours: list[torch.Tensor]) -> None:
    """As CUDA: all tensors are of the device, but for single numbers of the host."""
    if not ours or func in _COPIES or (func.overloadpacket in _INDEXED and isinstance(given[0], MockTensor)):
        return
    others = [
        one for one in given if not isinstance(one, MockTensor) and one.device.type == "cpu" and one.dim()
    ]
    if others:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! ({func})"
        )


def _refuse_generator(func: Any, options: dict[str, Any]) -> None:
    generator = options.get("generator")
    if generator is not None and generator._cdata not in GENERATORS:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation returns that writes into what it is given: the very tensors; None for others."""
    places = [
        args[place] if place < len(args) else kwargs[one.name]
        for place, one in enumerate(func._schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
    if not places or not func._schema.returns:
        return None
    return places[0] if len(func._schema.returns) == 1 else tuple(places)


def _widened(product: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A product of halves whose sums leave in another type, which the CPU has not."""

    def made(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype, *, out: Any = None) -> torch.Tensor:
        wide = product(a.to(dtype), b.to(dtype))
        return wide if out is None else out.copy_(wide)

    return made


# where a CUDA device does not as the CPU does
_AS_THERE: dict[Any, Callable[..., Any]] = {
    _aten.div.Tensor: divided,
    _aten.div_.Tensor: lambda a, b: a.copy_(divided(a, b)),
    _aten.bmm.dtype: _widened(torch.bmm),
    _aten.bmm.dtype_out: _widened(torch.bmm),
    _aten.mm.dtype: _widened(torch.mm),
    _aten.mm.dtype_out: _widened(torch.mm),
}

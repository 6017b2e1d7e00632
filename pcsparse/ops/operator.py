"""How an operator is made known to torch, and when a call goes past torch's dispatcher.

An operator of `custom_op` imports `torch._dynamo` at its first call, a second in which a warm process could
have segmented a sweep, and looks at every result for aliases of its inputs. Those of `torch.library`, one
level below, do neither.

Who traces a graph, transforms functions or profiles by operators meets operators. Other calls run the same
function under the same gradients as a plain `torch.autograd.Function`: the dispatcher's way through Python
takes longer than the kernels of a small level (docs/adr/0020-past-the-dispatcher.md).
"""

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from pcsparse.errors import UnsupportedError

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


class Operator(Generic[Inputs, Result]):
    """A function that torch traces as one opaque, typed operator. Called as the function is.

    It must return fresh tensors: neither an input nor a view of one.

    Args:
        name: `pcsparse::name`.
        function: annotated with types that torch can make a schema of.
    """

    def __init__(self, name: str, function: Callable[Inputs, Result]) -> None:
        self._name, self._function = name, function
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "default", function)
        namespace, _, short = name.partition("::")
        self._overload: Any = getattr(getattr(torch.ops, namespace), short).default
        self._plain: Callable[..., Any] | None = None

    def __call__(self, *args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        """Run it, through torch's dispatcher where somebody there wants to know.

        Raises:
            UnsupportedError: a tensor has a tangent, as in `torch.func.jvp`.
        """
        if not kwargs and runs_plainly(*args):
            if not wants_gradients(*args):
                return self._function(*args, **kwargs)
            if self._plain is not None:
                plain: Result = self._plain(*args)
                return plain
        _refuse_tangents(self._name, *args, *kwargs.values())
        result: Result = self._overload(*args, **kwargs)
        return result

    def register_fake(self, function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
        """Give the function that computes the shapes of the results."""
        torch.library.register_fake(self._name, function)
        return function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """Give the gradients; see `torch.library.register_autograd`."""
        torch.library.register_autograd(self._name, backward, setup_context=setup_context)
        self._plain = plain_function(self._name, self._function, backward, setup_context)

    def refuse_autograd(self) -> None:
        """For gradients themselves: a second derivative is an error, where torch would warn and give none."""

        def backward(ctx: Any, *grads: Any) -> None:
            raise UnsupportedError(
                f"{self._name} has no autograd formula: there are no second derivatives; go backward without "
                "create_graph=True"
            )

        torch.library.register_autograd(self._name, backward)
        self._plain = plain_function(self._name, self._function, backward, _nothing_to_keep)


def operator(name: str) -> Callable[[Callable[Inputs, Result]], Operator[Inputs, Result]]:
    """Make a function an `Operator`."""
    return lambda function: Operator(name, function)


def plain_function(
    name: str,
    function: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
) -> Callable[..., Any]:
    """`function` with gradients, and nothing of torch's but autograd between a call and it.

    Ask `runs_plainly` before a call. Arguments are positional; tensors that want a gradient are arguments
    themselves, not within a list.

    Args:
        name: of the node in a graph.
        function: returns fresh tensors.
        backward: as for `torch.library.register_autograd`; a list among the arguments has a list of None for
            its gradient.
        setup_context: as for `torch.library.register_autograd`.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        out = function(*args)
        setup_context(ctx, args, out)
        return out

    def gradients(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        found = backward(ctx, *grads)
        return tuple([None if type(grad) is list else grad for grad in found])

    return bare_function(name, forward, gradients)


def bare_function(
    name: str, forward: Callable[..., Any], backward: Callable[..., tuple[Any, ...]]
) -> Callable[..., Any]:
    """As `plain_function`, of the two functions that an `autograd.Function` has.

    Args:
        name: of the node in a graph.
        forward: takes the context and the arguments; returns fresh tensors.
        backward: takes the context and the gradients of what `forward` returns; gives one of each argument.
    """
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    made = type(f"PlainBackwardOf_{name.replace('::', '_')}", (torch.autograd.Function,), members)
    # what `Function.apply` does beyond it is for functorch, which `runs_plainly` has excluded
    apply: Callable[..., Any] = super(torch.autograd.Function, made).apply  # type: ignore[misc]
    return apply


def _nothing_to_keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse_tangents(name: str, *args: Any) -> None:
    """Raise where somebody differentiates in forward mode: torch itself would leave such an operand out."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for arg in args:
        if isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None:
            raise UnsupportedError(
                f"{name} has no derivative in forward mode (torch.func.jvp, torch.autograd.forward_ad); go "
                "backward instead"
            )


_TENSORS = frozenset((Tensor, nn.Parameter))
_VALUES = frozenset((NoneType, bool, int, float, str, torch.dtype))


def runs_plainly(*args: Any) -> bool:
    """Whether a call with these arguments may go past torch's dispatcher.

    Nobody traces, transforms or profiles, no mode is on, and memory is what the tensors say: no subclass, no
    tensor without values, and none that torch would turn round or fill with zeros before a kernel reads it.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.autograd.profiler._is_profiler_enabled
    ):
        return False
    return _are_plain(args)


def _are_plain(args: Sequence[Any]) -> bool:
    # a loop: a generator costs as much as what it asks, and this stands before every call
    for arg in args:
        kind = type(arg)
        if kind in _TENSORS:
            if arg.is_meta or arg.is_neg() or arg._is_zerotensor():
                return False
        elif kind is list:
            # tensors of a map, which hold no values that torch would turn round; gradients of a list are
            # the dispatcher's
            for part in arg:
                if type(part) not in _TENSORS or part.requires_grad:
                    return False
        elif kind not in _VALUES:
            return False
    return True


def wants_gradients(*args: Any) -> bool:
    """Whether autograd follows a call with these arguments, which run plainly."""
    if torch.is_grad_enabled():
        for arg in args:
            if type(arg) in _TENSORS and arg.requires_grad:
                return True
    return False

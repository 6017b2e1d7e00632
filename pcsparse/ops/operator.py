"""How an operator is made known to torch: `torch.library`, one level below its `custom_op`.

An operator of `custom_op` imports `torch._dynamo` at its first call, a second in which a warm process could
have segmented a sweep, and looks at every result for aliases of its inputs. These do neither.
"""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

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
        self._name = name
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "default", function)
        namespace, _, short = name.partition("::")
        self._overload: Any = getattr(getattr(torch.ops, namespace), short).default

    def __call__(self, *args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        """Run it, through torch's dispatcher."""
        result: Result = self._overload(*args, **kwargs)
        return result

    def register_fake(self, function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
        """Give the function that computes the shapes of the results."""
        torch.library.register_fake(self._name, function)
        return function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """Give the gradients; see `torch.library.register_autograd`."""
        torch.library.register_autograd(self._name, backward, setup_context=setup_context)

    def refuse_autograd(self) -> None:
        """For gradients themselves: a second derivative is an error, where torch would warn and give none."""

        def backward(ctx: Any, *grads: Any) -> None:
            raise UnsupportedError(
                f"{self._name} has no autograd formula: there are no second derivatives; go backward without "
                "create_graph=True"
            )

        torch.library.register_autograd(self._name, backward)


def operator(name: str) -> Callable[[Callable[Inputs, Result]], Operator[Inputs, Result]]:
    """Make a function an `Operator`."""
    return lambda function: Operator(name, function)


def runs_plainly(tensor: Tensor) -> bool:
    """Whether no graph is traced, and no mode or transform stands between a call and its kernel."""
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )

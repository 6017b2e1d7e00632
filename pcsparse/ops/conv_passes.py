"""The passes of a convolution as a plan runs them: contiguous rows, and a lack of memory with its sizes."""

from collections.abc import Callable

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import Epilogue
from pcsparse.engine.plan import DATAFLOWS, Choice
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import UnsupportedError
from pcsparse.lack_of_memory import raise_with_sizes


def check_choice(choice: Choice, problem: ConvProblem) -> None:
    """Raise UnsupportedError where the dataflow of a choice cannot run a problem."""
    # the operators are public, and an exported program runs them without `sparse_conv`
    reason = DATAFLOWS[choice.dataflow].refuses(problem)
    if reason is not None:
        raise UnsupportedError(
            f"the plan names {choice.dataflow}, which cannot run {problem}: {reason}; plan it with plan_for"
        )


def run_forward(
    problem: ConvProblem, choice: Choice, feats: Tensor, weight: Tensor, kmap: KernelMap, epilogue: Epilogue
) -> Tensor:
    """What a choice makes of a convolution.

    Raises:
        OutOfMemoryError: the device's memory does not suffice; the text names the sizes.
    """
    try:
        return DATAFLOWS[choice.dataflow].forward(feats.contiguous(), weight, kmap, choice.config, epilogue)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: problem.sizes("the forward pass"))


def run_grad_feats(
    problem: Callable[[], ConvProblem], choice: Choice, grad_out: Tensor, weight: Tensor, kmap: KernelMap
) -> Tensor:
    """As `run_forward`, the gradient of the inputs; `problem` gives that of the way back, for a message."""
    try:
        return DATAFLOWS[choice.dataflow].grad_feats(grad_out.contiguous(), weight, kmap, choice.config)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: problem().sizes("the input gradient"))


def run_grad_weight(
    problem: ConvProblem,
    choice: Choice,
    feats: Tensor,
    grad_out: Tensor,
    kmap: KernelMap,
    dtype: torch.dtype | None,
) -> Tensor:
    """As `run_forward`, the gradient of the weights, of `dtype`; that of `feats` if None."""
    flow = DATAFLOWS[choice.dataflow]
    try:
        return flow.grad_weight(feats.contiguous(), grad_out.contiguous(), kmap, choice.config, dtype)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: problem.sizes("the weight gradient"))

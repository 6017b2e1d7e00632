"""What a network of any library must give, and how near it has to come."""

from dataclasses import dataclass

from torch import Tensor

from pcsparse.bench.device.precision import Precision
from pcsparse.bench.verify import Check, check_norm, check_scale

# gradients of 16 bits would fade below their smallest number
LOSS_SCALE = 1024.0
# lengths of differences as shares: every layer rounds, some forty in a row; an unrelated result is 1.4
_OUTPUT = {"fp16": 0.02, "bf16": 0.08, "tf32": 0.02, "fp32": 1e-4}
_LOSS = {"fp16": 0.01, "bf16": 0.02, "tf32": 0.01, "fp32": 1e-4}
# the gradients of an untrained network nearly cancel: see `bench.nets`
_GRADIENT = {"fp16": 0.5, "bf16": 0.95, "tf32": 0.5, "fp32": 0.02}
_SCALE = 0.35


@dataclass(frozen=True, eq=False)
class Wanted:
    """Weights, input and what must come out of a case, float64 on the device.

    Attributes:
        state: of our network, with the statistics of this cloud in its norms.
        out: (n, c) in the order of keys.
        labels: (n,) int64 for the loss, in the order of keys.
        loss: of a training step.
        gradients: of every convolution's weights by name, of a training step.
        operations: useful ones of a forward pass.
    """

    state: dict[str, Tensor]
    out: Tensor
    labels: Tensor
    loss: Tensor | None
    gradients: dict[str, Tensor]
    operations: float


def checks(
    precision: Precision,
    wanted: Wanted,
    out: Tensor | None,
    order: Tensor,
    loss: Tensor | None = None,
    gradients: dict[str, Tensor] | None = None,
) -> tuple[Check, ...]:
    """Checks of what a library gave; `out` (n, c) is None where only loss and gradients came.

    Args:
        precision: of the run.
        wanted: by the twins.
        out: in the library's order.
        order: of its rows by key.
        loss: of a training step.
        gradients: by name of the weight, times `LOSS_SCALE`.
    """
    name = precision.name
    found = []
    if out is not None:
        limit = _OUTPUT[name] * (1 if loss is None else 4)
        found.append(check_norm("output", out[order].detach(), wanted.out, limit))
    if loss is not None and wanted.loss is not None:
        found.append(check_norm("loss", loss.detach(), wanted.loss, _LOSS[name]))
    for weight, gradient in (gradients or {}).items():
        expected = wanted.gradients[weight]
        found.append(check_norm(f"gradient of {weight}", gradient / LOSS_SCALE, expected, _GRADIENT[name]))
        if name != "fp32":
            scale = check_scale(f"scale of gradient of {weight}", gradient / LOSS_SCALE, expected, _SCALE)
            found.append(scale)
    return tuple(found)

"""The tuner's guard: a choice that disagrees with the twin, or with itself, is never timed.

Each choice is tried on a map that nothing was derived from, as that of a new cloud; what it derives is what
it costs besides its products. It is tried twice, each time on such a map: a stored tuning gives stored bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.watched_map import Derived, WatchedMap
from pcsparse.engine.choice import Choice, Pass
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.dataflow import Dataflow
from pcsparse.kernels import reference
from pcsparse.lack_of_memory import lacks_memory

# room above the random walk of rounding errors, as in benchmarks and tests
_FACTOR = 8.0
# of a factor with 10 bits behind the point
_TF32_EPS = 2.0**-10
_SEED = 20231


@dataclass(frozen=True)
class Trial:
    """One choice that was tried.

    Attributes:
        choice: what ran.
        error: largest difference from the twin as a share of the twin's largest value; nan if it did not run.
        rejected: why it was not timed, None if it was.
        derived: what it made of a new map.
        lacked_memory: whether it was rejected for that alone; it is neither wrong nor crashes.
    """

    choice: Choice
    error: float
    rejected: str | None
    derived: frozenset[Derived] = frozenset()
    lacked_memory: bool = False


@dataclass(frozen=True, eq=False)
class Operands:
    """Inputs of all passes of a call: random numbers of about the size that they have in a network."""

    call: ConvCall
    feats: Tensor
    weight: Tensor
    grad_out: Tensor

    @staticmethod
    def draw(call: ConvCall) -> "Operands":
        """The same numbers at every call."""
        draw, problem = torch.Generator().manual_seed(_SEED), call.problem

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            numbers = scale * torch.randn(*shape, generator=draw, device="cpu")
            return numbers.to(problem.dtype).to(call.built.device)

        return Operands(
            call,
            normal(problem.n_in, problem.c_in),
            normal(problem.k, problem.c_in, problem.c_out, scale=(problem.k * problem.c_in) ** -0.5),
            normal(problem.n_out, problem.c_out),
        )

    def run(self, choice: Choice, of: Pass, built: KernelMap, dataflows: Mapping[str, Dataflow]) -> Tensor:
        """A pass over `built`, a copy of the call's own map."""
        flow, kmap = dataflows[choice.dataflow], built.transposed() if self.call.turned else built
        match of:
            case "forward":
                return flow.forward(self.feats, self.weight, kmap, choice.config)
            case "grad_feats":
                return flow.grad_feats(self.grad_out, self.weight, kmap, choice.config)
            case "grad_weight":
                return flow.grad_weight(self.feats, self.grad_out, kmap, choice.config, self.dtype_of(of))

    def dtype_of(self, of: Pass) -> torch.dtype:
        """Of a pass's result."""
        if of == "grad_weight":
            # as under autocast, which is how networks train in 16 bits
            return _sums(self.feats.dtype)
        return self.feats.dtype

    def tried(
        self, choices: Sequence[Choice], of: Pass, dataflows: Mapping[str, Dataflow]
    ) -> Iterator[tuple[Trial, dict[Derived, Callable[[], object]]]]:
        """Each choice against the twin, and how to make what it made of its map.

        What a choice derives is gone before the next one is tried, unless the caller keeps how to make it.
        """
        expected, terms = self._expected(of)
        for choice in choices:
            built = WatchedMap(self.call.built)
            limit = _limit(self.call.problem.dtype, self.dtype_of(of), terms, choice)

            def run(kmap: KernelMap, choice: Choice = choice) -> Tensor:
                return self.run(choice, of, kmap, dataflows)

            error, rejected, lacked = _compared(run, built, expected, limit)
            yield Trial(choice, error, rejected, frozenset(built.seen), lacked), built.taken()

    def _expected(self, of: Pass) -> tuple[Tensor, int]:
        """The twin's result in float64, and the largest number of products in one of its sums."""
        feats, weight, grad_out = (part.double() for part in (self.feats, self.weight, self.grad_out))
        built = self.call.built.bare()
        kmap = built.transposed() if self.call.turned else built
        if of == "grad_weight":
            pairs = kmap.pairs
            lists = pairs.rows_in, pairs.rows_out, pairs.starts
            most = int(pairs.starts.diff().max()) if kmap.volume else 0
            return reference.output_stationary_grad_weight(feats, grad_out, *lists, 1), most
        source = feats
        if of == "grad_feats":
            source, weight, kmap = grad_out, weight.transpose(1, 2), kmap.transposed()
        pairs = kmap.pairs
        lists = pairs.rows_in, pairs.rows_out, pairs.starts
        result = reference.output_stationary(source, weight, *lists, kmap.n_out, 1)
        return result, weight.shape[0] * weight.shape[1]


def _sums(dtype: torch.dtype) -> torch.dtype:
    """What products of a dtype are added in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _limit(dtype: torch.dtype, stored: torch.dtype, terms: int, choice: Choice) -> float:
    """Largest error allowed: rounding errors of a sum walk at random.

    Args:
        dtype: of the factors.
        stored: of the result; where it is narrower than the sums, they are rounded once more, at the end.
        terms: products in one sum.
        choice: what ran.
    """
    sums = _sums(dtype)
    once = torch.finfo(stored).eps if stored != sums else 0.0
    if dtype == torch.float32 and getattr(choice.config, "precision", "ieee") == "tf32":
        # both factors of a product are rounded to 10 bits; as with sums, these errors walk at random
        once = _TF32_EPS
    return _FACTOR * torch.finfo(sums).eps * sqrt(max(terms, 1)) + once


def _compared(
    run: Callable[[KernelMap], Tensor], built: KernelMap, expected: Tensor, limit: float
) -> tuple[float, str | None, bool]:
    """The error of a result, what is wrong with it or the next one, and whether that is lack of memory."""
    actual = _result(run, built)
    if not isinstance(actual, Tensor):
        return float("nan"), *actual
    if actual.shape != expected.shape:
        shapes = f"{tuple(actual.shape)}, not {tuple(expected.shape)}"
        return float("nan"), f"its result has the shape {shapes}", False
    if expected.numel() == 0:
        return 0.0, None, False
    scale = float(expected.abs().max()) or 1.0
    error = float((actual.double() - expected).abs().max()) / scale
    if not error <= limit:
        return error, f"error {error:.2g} against the twin, allowed {limit:.2g}", False
    again = _result(run, built.bare())
    if not isinstance(again, Tensor):
        reason, lacked = again
        return error, f"at its second run, {reason}", lacked
    if not torch.equal(actual, again):
        others = int((actual != again).sum()) if actual.shape == again.shape else again.numel()
        return error, f"{others} of {actual.numel()} numbers are others at its second run", False
    return error, None, False


def _result(run: Callable[[KernelMap], Tensor], built: KernelMap) -> Tensor | tuple[str, bool]:
    """What comes out, or why nothing does and whether that is lack of memory."""
    try:
        return run(built)
    except Exception as failure:
        if lacks_memory(failure):
            # another choice may need less; but this one is not wrong, and on an emptier device it may win
            return f"more memory than the device had left: {failure}", True
        # a choice that fails is one that loses; the others must still be tried
        return f"{type(failure).__name__}: {failure}", False

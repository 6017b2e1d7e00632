"""Autotuner: time the choices for each pass of a convolution, drop those that are wrong, keep the fastest.

Correct before fast: a choice that disagrees with the twin is never timed. What is timed is what runs: the
dataflow's own method with the config that the plan will name. Device-neutral.

Source: requirements of the tuners of TorchSparse++ (MICRO 2023, utils/tune.py) and WarpConvNet.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.choice import DATAFLOWS, PASSES, Choice, Pass, choices
from pcsparse.engine.dataflow import Dataflow
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket, TuneTable
from pcsparse.errors import UnsupportedError
from pcsparse.kernels import reference
from pcsparse.timing import Timing, time_in_turns

# room above the random walk of rounding errors, as in benchmarks and tests
_FACTOR = 8.0
# after a glance, a choice this much slower than the fastest is timed no more
_HOPELESS = 1.5
# the least gain, of the median and of the lower quartile; below it is noise, and the rule stays, and its bits
_WORTHWHILE = 1.05
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
    """

    choice: Choice
    error: float
    rejected: str | None


@dataclass(frozen=True)
class Tuning:
    """The outcome for one pass of one problem.

    Attributes:
        problem: of the whole convolution.
        of: the pass.
        rule: what `plan_for` takes without a table.
        best: the fastest, or the rule where nothing is faster by more than noise.
        rule_time, best_time: taken in turns, after the search; the same where `best` is the rule. `rule_time`
            is None if the rule's choice disagreed with the twin.
        trials: every choice, also the rejected ones.
    """

    problem: ConvProblem
    of: Pass
    rule: Choice
    best: Choice
    rule_time: Timing | None
    best_time: Timing
    trials: tuple[Trial, ...]

    @property
    def gain(self) -> float:
        """How many times faster than the rule; 1 if there is no comparison."""
        return 1.0 if self.rule_time is None else self.rule_time.median / self.best_time.median


def tune(
    problem: ConvProblem,
    kmap: KernelMap,
    *,
    passes: Sequence[Pass] = PASSES,
    runs: int = 10,
    dataflows: Mapping[str, Dataflow] = DATAFLOWS,
) -> tuple[Tuning, ...]:
    """Find the fastest choice for each pass of one convolution, on random features and weights.

    Args:
        problem: the convolution.
        kmap: a map with the sizes of `problem`.
        passes: each is tuned by itself.
        runs: of each choice that is not hopeless.
        dataflows: where the choices come from; in the order of preference.

    Raises:
        UnsupportedError: every choice for a pass refuses, fails or disagrees with the twin; the text gives
            each reason.
    """
    operands = _Operands.draw(problem, kmap)
    return tuple(_tune_pass(problem, operands, of, runs, dataflows) for of in passes)


def table_of(tunings: Iterable[Tuning]) -> TuneTable:
    """What `plan_for` reads: the choices that beat the rule. Where the rule stays, nothing is stored."""
    return TuneTable.here({(Bucket.of(t.problem), t.of): t.best for t in tunings if t.best != t.rule})


@dataclass(frozen=True, eq=False)
class _Operands:
    """Inputs of all passes: random numbers of about the size that they have in a network."""

    feats: Tensor
    weight: Tensor
    grad_out: Tensor
    kmap: KernelMap

    @staticmethod
    def draw(problem: ConvProblem, kmap: KernelMap) -> "_Operands":
        draw = torch.Generator().manual_seed(_SEED)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            numbers = scale * torch.randn(*shape, generator=draw)
            return numbers.to(problem.dtype).to(kmap.device)

        return _Operands(
            normal(problem.n_in, problem.c_in),
            normal(problem.k, problem.c_in, problem.c_out, scale=(problem.k * problem.c_in) ** -0.5),
            normal(problem.n_out, problem.c_out),
            kmap,
        )

    def run(self, choice: Choice, of: Pass, dataflows: Mapping[str, Dataflow]) -> Tensor:
        flow = dataflows[choice.dataflow]
        match of:
            case "forward":
                return flow.forward(self.feats, self.weight, self.kmap, choice.config)
            case "grad_feats":
                return flow.grad_feats(self.grad_out, self.weight, self.kmap, choice.config)
            case "grad_weight":
                return flow.grad_weight(self.feats, self.grad_out, self.kmap, choice.config)

    def expected(self, of: Pass) -> tuple[Tensor, int]:
        """The twin's result in float64, and the largest number of products in one of its sums."""
        feats, weight, grad_out = (part.double() for part in (self.feats, self.weight, self.grad_out))
        kmap = self.kmap
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


def _tune_pass(
    problem: ConvProblem, operands: _Operands, of: Pass, runs: int, dataflows: Mapping[str, Dataflow]
) -> Tuning:
    reasons = {name: flow.refuses(problem) for name, flow in dataflows.items()}
    tried = [
        c for name, flow in dataflows.items() if reasons[name] is None for c in choices(flow, problem, of)
    ]
    expected, terms = operands.expected(of)
    trials = tuple(
        _try(lambda c=c: operands.run(c, of, dataflows), c, expected, _limit(problem.dtype, terms, c))  # type: ignore[misc]
        for c in tried
    )
    right = [trial.choice for trial in trials if trial.rejected is None]
    if not right:
        said = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        said += [f"{trial.choice.encode()}: {trial.rejected}" for trial in trials]
        raise UnsupportedError(f"nothing runs {of} of {problem}: {'; '.join(said)}")

    def timed(which: Sequence[Choice], runs: int) -> dict[Choice, Timing]:
        runners = {c.encode(): (lambda c=c: operands.run(c, of, dataflows)) for c in which}  # type: ignore[misc]
        found = time_in_turns(runners, runs=runs, warmup=1, device=operands.kmap.device)
        return {c: found[c.encode()] for c in which}

    rule = tried[0]
    glance = timed(right, 2)
    fastest = min(glance.values(), key=lambda t: t.q1).q1
    near = [c for c, taken in glance.items() if taken.q1 <= _HOPELESS * fastest or c == rule]
    race = timed(near, runs)
    best = min(race, key=lambda c: race[c].median)
    if rule not in right:
        return Tuning(problem, of, rule, best, None, race[best], trials)
    # once more, the two alone: the fastest of many has been lucky, too
    duel = timed(list(dict.fromkeys((rule, best))), 2 * runs)
    old, new = duel[rule], duel[best]
    if min(old.median / new.median, old.q1 / new.q1) < _WORTHWHILE:
        best = rule
    return Tuning(problem, of, rule, best, duel[rule], duel[best], trials)


def _limit(dtype: torch.dtype, terms: int, choice: Choice) -> float:
    """Largest error allowed: rounding errors of a sum walk at random; 16 bits round once more, at the end."""
    narrow = dtype in (torch.float16, torch.bfloat16)
    wide = torch.float32 if narrow else dtype
    stored = torch.finfo(dtype).eps if narrow else 0.0
    if dtype == torch.float32 and getattr(choice.config, "precision", "ieee") == "tf32":
        # both factors of a product are rounded to 10 bits; as with sums, these errors walk at random
        stored = _TF32_EPS
    return _FACTOR * torch.finfo(wide).eps * sqrt(max(terms, 1)) + stored


def _try(run: Callable[[], Tensor], choice: Choice, expected: Tensor, limit: float) -> Trial:
    try:
        actual = run()
    except Exception as failure:
        # a choice that fails is one that loses; the others must still be tried
        return Trial(choice, float("nan"), f"{type(failure).__name__}: {failure}")
    if actual.shape != expected.shape:
        shapes = f"{tuple(actual.shape)}, not {tuple(expected.shape)}"
        return Trial(choice, float("nan"), f"its result has the shape {shapes}")
    if expected.numel() == 0:
        return Trial(choice, 0.0, None)
    scale = float(expected.abs().max()) or 1.0
    error = float((actual.double() - expected).abs().max()) / scale
    agrees = error <= limit
    return Trial(
        choice, error, None if agrees else f"error {error:.2g} against the twin, allowed {limit:.2g}"
    )

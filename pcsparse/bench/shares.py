"""Where the time of a whole network goes, by the operators that torch's profiler sees."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from pcsparse.bench.cases import NetCase
from pcsparse.bench.nets import calibrated, targets, training_step
from pcsparse.bench.scene import Scene
from pcsparse.nn import prepare

# the first group whose word is in the name of an operator gets its whole time, children included; the order
# settles names that hold two words
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("maps", ("bench::maps",)),
    ("optimiser", ("Optimizer.",)),
    ("convolution grad_weight", ("sparse_conv_grad_weight",)),
    ("convolution grad_feats", ("sparse_conv_grad_feats",)),
    ("convolution forward", ("pcsparse::sparse_conv",)),
    # ReLU and the residual sum included, where one pass does them
    ("batch norm", ("batch_norm", "scale_shift", "norm_by_moments")),
    ("ReLU", ("relu", "threshold_backward")),
    ("cat", ("aten::cat", "CatBackward")),
    ("addition", ("aten::add", "AccumulateGrad")),
    ("linear", ("aten::linear", "aten::addmm", "aten::mm", "AddmmBackward", "aten::t")),
    ("loss", ("cross_entropy", "nll_loss", "log_softmax", "LogSoftmax")),
    ("casts and copies", ("aten::to", "aten::_to_copy", "aten::copy_", "ToCopyBackward", "aten::clone")),
)
REST = "rest"


@dataclass(frozen=True)
class Share:
    """One group of a profile.

    Attributes:
        name: of `GROUPS`, or "rest": Python, launching, and operators in no group.
        seconds: of one run.
        share: of the whole run, 0 to 1.
    """

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """One forward pass or training step.

    Attributes:
        case: its name.
        seconds: of one run under the profiler, which slows small operators down.
        shares: all groups that took time, largest first; they add up to one.
    """

    case: str
    seconds: float
    shares: tuple[Share, ...]

    def __str__(self) -> str:
        """A few lines."""
        lines = [f"{self.case}: {1e3 * self.seconds:.0f} ms under the profiler"]
        lines += [
            f"  {share.share:6.1%}  {1e3 * share.seconds:8.1f} ms  {share.name}" for share in self.shares
        ]
        return "\n".join(lines)


def profile_case(case: NetCase, scene: Scene, runs: int) -> Profile:
    """Profile a network from coordinates to logits or updated weights; maps are built first, all at once.

    Args:
        case: plain modules; the dtype and whether to train are the case's.
        scene: its input.
        runs: averaged, after two that are not measured.
    """
    model = calibrated(case, scene)
    feats = scene.tensor.feats
    if not case.training:
        model, feats = model.to(case.dtype), feats.to(case.dtype)

    def logits() -> torch.Tensor:
        x = scene.fresh(feats)
        with record_function("bench::maps"):
            prepare(model, x)
        found: torch.Tensor = model(x).feats
        return found

    run = _runner(case, scene, model, logits)
    for _ in range(2):
        run()
    return profile_run(case.name, run, runs)


def _runner(
    case: NetCase, scene: Scene, model: nn.Module, logits: Callable[[], torch.Tensor]
) -> Callable[[], object]:
    if case.training:
        return training_step(model, logits, targets(scene, case.spec.n_classes), case.dtype)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return logits()

    return forward


def profile_run(name: str, run: Callable[[], object], runs: int) -> Profile:
    """Profile any function: wall-clock time on the calling thread by group."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(runs):
            with record_function("bench::run"):
                run()
    events = profiler.events() or []
    total = sum(event.time_range.elapsed_us() for event in events if event.name == "bench::run")
    seconds: dict[str, float] = {}
    for event in events:
        group = group_of(event.name)
        if group is not None and not _inside_a_group(event):
            seconds[group] = seconds.get(group, 0.0) + event.time_range.elapsed_us()
    seconds[REST] = total - sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: (item[0] == REST, -item[1]))
    shares = tuple(Share(group, 1e-6 * taken / runs, taken / total) for group, taken in ranked)
    return Profile(name, 1e-6 * total / runs, shares)


def group_of(operator: str) -> str | None:
    """The group of an operator's name, or None."""
    for group, words in GROUPS:
        if any(word in operator for word in words):
            return group
    return None


def _inside_a_group(event: Any) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if group_of(parent.name) is not None:
            return True
        parent = parent.cpu_parent
    return False

"""Plan: the dataflow of each pass of a convolution, chosen once, in forward, and kept for backward."""

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from pcsparse.checks import is_traced
from pcsparse.engine.choice import DATAFLOWS as DATAFLOWS
from pcsparse.engine.choice import PASSES, first_choice
from pcsparse.engine.choice import Choice as Choice
from pcsparse.engine.dataflow import Dataflow
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.sorted_implicit_gemm import product_precision
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import FormatError, UnsupportedError


@dataclass(frozen=True)
class Plan:
    """What runs each pass."""

    forward: Choice
    grad_feats: Choice
    grad_weight: Choice

    def encode(self) -> str:
        """One line of text, for the custom op and for logs."""
        if is_traced():
            return self._text()
        # every call of an operator asks
        memory = vars(self)
        if "text" not in memory:
            memory["text"] = self._text()
        text: str = memory["text"]
        return text

    def _text(self) -> str:
        return "|".join(choice.encode() for choice in (self.forward, self.grad_feats, self.grad_weight))

    @staticmethod
    @cache
    def decode(text: str) -> "Plan":
        """Inverse of `encode`.

        Raises:
            FormatError: not the text of a plan.
        """
        parts = text.split("|")
        if len(parts) != 3:
            raise FormatError(f"{text!r} is not a plan of three passes; make it with Plan.encode()")
        return Plan(*map(Choice.decode, parts))


def plan_for(problem: ConvProblem, dataflow: str = "auto", tuned: TuneTable | None = None) -> Plan:
    """The plan for a problem.

    Rule: the first dataflow of `DATAFLOWS` that does not refuse, with its first config, for all three passes.
    On a CPU that is output-stationary: its microkernel beat BLAS with gather and scatter in all 27 cases of
    the benchmark's `dataflows` section (docs/log.md, 2026-11-25). On a GPU it is sorted implicit GEMM, and
    gather-GEMM-scatter where that refuses. The rule reads the problem only: the same problem has the same
    bits everywhere.

    A tuned table, where it knows the problem's bucket, replaces the rule pass by pass; where a dataflow is
    named, only by entries of that dataflow. The same table gives the same bits everywhere, too.

    Args:
        problem: the convolution.
        dataflow: a name of `DATAFLOWS`, or "auto".
        tuned: measured choices (`engine.autotune`), or None.

    Raises:
        UnsupportedError: the named dataflow is unknown or refuses, or all refuse; the text gives each reason.
    """
    if dataflow != "auto" and dataflow not in DATAFLOWS:
        raise UnsupportedError(f"no dataflow {dataflow!r}; known: auto, {', '.join(DATAFLOWS)}")
    names = tuple(DATAFLOWS) if dataflow == "auto" else (dataflow,)
    for name in names:
        if DATAFLOWS[name].refuses(problem) is None:
            break
    else:
        listed = "; ".join(f"{name}: {DATAFLOWS[name].refuses(problem)}" for name in names)
        raise UnsupportedError(f"no dataflow runs {problem}: {listed}")
    plan = _rule(DATAFLOWS[name], problem)
    if tuned is None:
        return plan
    able = [name for name in names if DATAFLOWS[name].refuses(problem) is None]
    found = (tuned.choice(problem, of) for of in PASSES)
    rule = (plan.forward, plan.grad_feats, plan.grad_weight)
    return Plan(*(f if f is not None and f.dataflow in able else r for f, r in zip(found, rule, strict=True)))


def _rule(dataflow: Dataflow[Any], problem: ConvProblem) -> Plan:
    if is_traced():
        return _first_plan(dataflow, problem)
    return _known_plan(dataflow, problem, product_precision(problem.dtype))


def _first_plan(dataflow: Dataflow[Any], problem: ConvProblem) -> Plan:
    return Plan(*(first_choice(dataflow, problem, of) for of in PASSES))


@lru_cache(maxsize=4096)
def _known_plan(dataflow: Dataflow[Any], problem: ConvProblem, precision: str) -> Plan:
    # every cloud has other rows
    return _plan_of_any_rows(dataflow, replace(problem, n_in=0, n_out=0, n_pairs=None), precision)


@lru_cache(maxsize=4096)
def _plan_of_any_rows(dataflow: Dataflow[Any], problem: ConvProblem, precision: str) -> Plan:
    return _first_plan(dataflow, problem)


def explain(problem: ConvProblem, tuned: TuneTable | None = None) -> str:
    """What `plan_for` takes for `problem` and what every dataflow says to it, without running anything."""
    reasons = {name: dataflow.refuses(problem) for name, dataflow in DATAFLOWS.items()}
    plan = "none" if all(reasons.values()) else plan_for(problem, tuned=tuned).encode()
    lines = [f"problem: {problem}", f"plan: {plan}"]
    if tuned is not None:
        known = [of for of in PASSES if tuned.choice(problem, of) is not None]
        lines.append(f"tuned: {', '.join(known) or 'nothing'} for {tuned.device}")
    for name, reason in reasons.items():
        lines.append(f"  {name}: " + ("can run it" if reason is None else f"refuses: {reason}"))
    return "\n".join(lines)

"""Plan: the dataflow of each pass of a convolution, chosen once, in forward, and kept for backward."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from pcsparse.engine.dataflow import Dataflow
from pcsparse.engine.gather_scatter import GatherScatter
from pcsparse.engine.output_stationary import OutputStationary
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import FormatError, UnsupportedError

DATAFLOWS: Mapping[str, Dataflow[Any]] = MappingProxyType(
    {dataflow.name: dataflow for dataflow in (OutputStationary(), GatherScatter())}
)
"""All dataflows by name, in the order of preference."""


@dataclass(frozen=True)
class Choice:
    """A dataflow and its config, for one pass."""

    dataflow: str
    config: Any

    def encode(self) -> str:
        """`name(field=value,...)`."""
        fields = ",".join(f"{name}={value}" for name, value in asdict(self.config).items())
        return f"{self.dataflow}({fields})"

    @staticmethod
    def decode(text: str) -> "Choice":
        """Inverse of `encode`.

        Raises:
            FormatError: not the text of a choice.
        """
        try:
            name, _, rest = text.removesuffix(")").partition("(")
            config_class = DATAFLOWS[name].config_class
            types = {field: type(value) for field, value in asdict(config_class()).items()}
            items = (item.split("=") for item in rest.split(","))
            return Choice(name, config_class(**{field: types[field](value) for field, value in items}))
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(
                f"{text!r} is not a dataflow choice such as 'gather_scatter(epsilon=0.2)'"
            ) from error


@dataclass(frozen=True)
class Plan:
    """What runs each pass."""

    forward: Choice
    grad_feats: Choice
    grad_weight: Choice

    def encode(self) -> str:
        """One line of text, for the custom op and for logs."""
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


def plan_for(problem: ConvProblem, dataflow: str = "auto") -> Plan:
    """The plan for a problem.

    Rule: the first dataflow of `DATAFLOWS` that does not refuse, with its first config, for all three passes.
    On a CPU that is output-stationary: its microkernel beats BLAS with gather and scatter at every size
    measured (`make bench`). The rule reads the problem only: the same problem has the same bits everywhere.

    Args:
        problem: the convolution.
        dataflow: a name of `DATAFLOWS`, or "auto".

    Raises:
        UnsupportedError: the named dataflow is unknown or refuses, or all refuse; the text gives each reason.
    """
    if dataflow != "auto" and dataflow not in DATAFLOWS:
        raise UnsupportedError(f"no dataflow {dataflow!r}; known: auto, {', '.join(DATAFLOWS)}")
    names = list(DATAFLOWS) if dataflow == "auto" else [dataflow]
    reasons = {name: DATAFLOWS[name].refuses(problem) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            forward = Choice(name, DATAFLOWS[name].configs(problem)[0])
            # the input gradient is a forward pass that writes c_in channels
            grad_feats = Choice(name, DATAFLOWS[name].configs(problem.transposed())[0])
            return Plan(forward, grad_feats, forward)
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise UnsupportedError(f"no dataflow runs {problem}: {listed}")


def explain(problem: ConvProblem) -> str:
    """What `plan_for` takes for `problem` and what every dataflow says to it, without running anything."""
    reasons = {name: dataflow.refuses(problem) for name, dataflow in DATAFLOWS.items()}
    plan = "none" if all(reasons.values()) else plan_for(problem).encode()
    lines = [f"problem: {problem}", f"plan: {plan}"]
    for name, reason in reasons.items():
        lines.append(f"  {name}: " + ("can run it" if reason is None else f"refuses: {reason}"))
    return "\n".join(lines)

"""A choice: one dataflow and its config, for one pass of a convolution."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from pcsparse.engine.dataflow import Dataflow
from pcsparse.engine.fetch_on_demand import FetchOnDemand
from pcsparse.engine.gather_scatter import GatherScatter
from pcsparse.engine.output_stationary import OutputStationary
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.sorted_implicit_gemm import SortedImplicitGemm
from pcsparse.errors import FormatError

Pass = Literal["forward", "grad_feats", "grad_weight"]
PASSES: tuple[Pass, ...] = get_args(Pass)

DATAFLOWS: Mapping[str, Dataflow[Any]] = MappingProxyType(
    {
        dataflow.name: dataflow
        for dataflow in (OutputStationary(), SortedImplicitGemm(), GatherScatter(), FetchOnDemand())
    }
)
"""All dataflows by name, in the order of preference; the last one runs only what is named or tuned so."""


@dataclass(frozen=True)
class Choice:
    """A dataflow and its config, for one pass."""

    dataflow: str
    config: Any

    def encode(self) -> str:
        """`name(field=value,...)`."""
        # not vars(): torch.compile of torch 2.11 cannot trace it
        text = ",".join(f"{field.name}={getattr(self.config, field.name)}" for field in fields(self.config))
        return f"{self.dataflow}({text})"

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


def choices(dataflow: Dataflow[Any], problem: ConvProblem, of: Pass) -> tuple[Choice, ...]:
    """What a dataflow would try for one pass; the first one is what the rule takes."""
    return tuple(Choice(dataflow.name, config) for config in dict.fromkeys(_configs(dataflow, problem, of)))


def first_choice(dataflow: Dataflow[Any], problem: ConvProblem, of: Pass) -> Choice:
    """What the rule takes: the first of `choices`, without making the others, for it runs at every call."""
    return Choice(dataflow.name, next(iter(_configs(dataflow, problem, of))))


def _configs(dataflow: Dataflow[Any], problem: ConvProblem, of: Pass) -> Iterable[Any]:
    match of:
        case "forward":
            return dataflow.configs(problem)
        case "grad_feats":
            # the input gradient is a forward pass that writes c_in channels
            return dataflow.configs(problem.transposed())
        case "grad_weight":
            return dataflow.configs_grad_weight(problem)

"""What a search chooses from, and what a choice costs.

A step is one decision: a group of channels that can only be cut together, or the kept offsets of a layer. The
cost of a network is a sum of terms, each a table over the widths of the few groups that it depends on: a
convolution between two groups has a table over both, one after a concatenation a table over three, one whose
input and output are tied a table over one. Milliseconds, multiply-adds and bytes are such sums alike.
"""

import hashlib
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from pcsparse.compress.search.elimination import Factor, descend, minimise
from pcsparse.errors import RangeError, ShapeError

Assignment = tuple[int, ...]
"""A width for each step, in their order."""
Indices = npt.NDArray[np.int64]
"""The same as places in the steps' grids, (n_steps,) or a row an assignment."""


@dataclass(frozen=True)
class Step:
    """One decision, and what is known of it before any is taken.

    Attributes:
        name: unique in a space.
        widths: ascending, > 0; the last is that of the whole network. Kept channels or kept offsets.
        kind: 0 a sparse convolution, 1 a linear layer, other numbers as the caller likes.
        c_in: input channels of the layer, or of the first layer that writes the group.
        c_out: output channels.
        stride: 1 for submanifold convolutions.
        kernel: kernel volume.
        voxels: output voxels, a mean over calibration sweeps.
        pairs: of the kernel map, a mean.

    Raises:
        RangeError: no widths, widths that do not ascend, or a feature that is not finite.
    """

    name: str
    widths: tuple[int, ...]
    kind: int = 0
    c_in: float = 0.0
    c_out: float = 0.0
    stride: float = 1.0
    kernel: float = 1.0
    voxels: float = 0.0
    pairs: float = 0.0

    def __post_init__(self) -> None:
        widths = tuple(operator.index(width) for width in self.widths)
        if not widths or widths[0] < 1 or list(widths) != sorted(set(widths)):
            raise RangeError(
                f"the widths of step {self.name!r} must ascend from 1 or more, each once; got {self.widths}"
            )
        object.__setattr__(self, "widths", widths)
        facts = (self.c_in, self.c_out, self.stride, self.kernel, self.voxels, self.pairs)
        if not all(math.isfinite(fact) for fact in facts):
            raise RangeError(f"the features of step {self.name!r} must be finite, got {facts}")

    @classmethod
    def from_ratios(
        cls, name: str, full: int, ratios: Iterable[float], *, multiple: int = 8, **features: float
    ) -> Self:
        """A step whose widths leave out given shares of `full`, rounded up to a multiple.

        The full width is always among them, also where it is no multiple.

        Args:
            name: of the step.
            full: channels of the whole network, > 0.
            ratios: shares to remove, each in [0, 1).
            multiple: widths are rounded up to it, as kernels like them; 1 leaves them.
            features: the other attributes.

        Raises:
            RangeError: a ratio outside [0, 1), `full` or `multiple` below 1.
        """
        ratios = list(ratios)
        wrong = [ratio for ratio in ratios if not 0.0 <= ratio < 1.0]
        if wrong:
            raise RangeError(
                f"a ratio is the share to remove, from 0 to below 1; step {name!r} has {wrong}; "
                "leave a layer out of the network to remove all of it"
            )
        if full < 1 or multiple < 1:
            raise RangeError(f"full and multiple must be at least 1, got {full} and {multiple}")
        # a guard against 0.9 * 10 being a little more than 9
        kept = (math.ceil(full * (1.0 - ratio) - 1e-9) for ratio in ratios)
        widths = {min(full, -(-max(width, 1) // multiple) * multiple) for width in kept}
        return cls(name, tuple(sorted(widths | {full})), **features)  # type: ignore[arg-type]

    @property
    def full(self) -> int:
        """The width of the whole network."""
        return self.widths[-1]

    @property
    def weights(self) -> float:
        """Kernel volume by input by output channels."""
        return self.kernel * self.c_in * self.c_out


@dataclass(frozen=True, eq=False)
class CostTerm:
    """A part of the cost that depends on the widths of a few groups.

    Attributes:
        name: of the layer, for tables that people read.
        groups: names of steps, each once; none for what nothing changes, such as the building of maps.
        table: one axis a group, as long as its grid, float64, >= 0; not to be written to.
    """

    name: str
    groups: tuple[str, ...]
    table: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        table = np.array(self.table, dtype=np.float64)
        if len(set(self.groups)) < len(self.groups):
            raise RangeError(f"cost term {self.name!r} names a group twice: {self.groups}; see of_layer")
        if table.ndim != len(self.groups):
            raise ShapeError(
                f"cost term {self.name!r} depends on {len(self.groups)} groups, its table has shape "
                f"{table.shape}"
            )
        if not (np.isfinite(table) & (table >= 0)).all():
            raise RangeError(f"cost term {self.name!r} has a cost that is negative or not finite")
        table.setflags(write=False)
        object.__setattr__(self, "table", table)

    @classmethod
    def of_layer(
        cls, name: str, group_in: str | None, group_out: str | None, table: npt.ArrayLike
    ) -> "CostTerm":
        """The cost of a layer by the width of its input and of its output.

        Args:
            name: of the layer.
            group_in: None where the input has one width only, as the points have; its axis is of length 1.
            group_out: the same of the output, as classes have; equal to `group_in` where both are tied, of
                which the diagonal is taken.
            table: (widths of the input, widths of the output).

        Raises:
            ShapeError: no matrix, or an axis that does not fit.
        """
        costs = np.asarray(table, dtype=np.float64)
        if costs.ndim != 2:
            raise ShapeError(f"the table of {name!r} must be a matrix, got shape {costs.shape}")
        for axis, group in enumerate((group_in, group_out)):
            if group is None and costs.shape[axis] != 1:
                raise ShapeError(f"the table of {name!r} has shape {costs.shape}; axis {axis} has no group")
        if group_in is not None and group_in == group_out:
            if costs.shape[0] != costs.shape[1]:
                raise ShapeError(f"the table of {name!r}, tied, must be square; got shape {costs.shape}")
            return cls(name, (group_in,), np.diagonal(costs))
        groups = tuple(group for group in (group_in, group_out) if group is not None)
        sizes = [costs.shape[axis] for axis, group in enumerate((group_in, group_out)) if group is not None]
        return cls(name, groups, costs.reshape(sizes))


@dataclass(frozen=True, eq=False)
class Space:
    """All assignments of widths to steps, and their cost.

    Attributes:
        steps: in the order in which a network runs.
        terms: whose sum is the cost.
        unit: of the cost: "ms", "MACs", "bytes".

    Raises:
        RangeError: no steps, a name twice, or a term of an unknown step.
        ShapeError: a table that does not fit the grids.
    """

    steps: tuple[Step, ...]
    terms: tuple[CostTerm, ...]
    unit: str = "MACs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "terms", tuple(self.terms))
        places = {step.name: i for i, step in enumerate(self.steps)}
        if not self.steps or len(places) < len(self.steps):
            names = [step.name for step in self.steps]
            raise RangeError(f"a space needs steps, each with a name of its own; got {names}")
        for term in self.terms:
            unknown = [group for group in term.groups if group not in places]
            if unknown:
                raise RangeError(
                    f"cost term {term.name!r} depends on {unknown}; the steps are {list(places)}"
                )
            sizes = tuple(len(self.steps[places[group]].widths) for group in term.groups)
            if term.table.shape != sizes:
                raise ShapeError(
                    f"cost term {term.name!r} has a table of shape {term.table.shape}, the grids of "
                    f"{term.groups} have {sizes} widths"
                )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many widths each step has."""
        return tuple(len(step.widths) for step in self.steps)

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The terms with places of steps instead of names."""
        places = {step.name: i for i, step in enumerate(self.steps)}
        return tuple(Factor(tuple(places[g] for g in term.groups), term.table) for term in self.terms)

    @property
    def largest(self) -> Assignment:
        """The whole network."""
        return tuple(step.widths[-1] for step in self.steps)

    @property
    def smallest(self) -> Assignment:
        """The smallest width of each step; measured tables may have a cheaper assignment, see `cheapest`."""
        return tuple(step.widths[0] for step in self.steps)

    @cached_property
    def cheapest(self) -> Assignment:
        """An assignment of least cost, `smallest` where no width is cheaper than a smaller one.

        Exact but where too many groups hang together, see `elimination.minimise`: then the least that
        changing one step at a time finds.
        """
        if all(
            (np.diff(term.table, axis=a) >= 0).all() for term in self.terms for a in range(term.table.ndim)
        ):
            return self.smallest
        found = minimise(self.sizes, self.factors)
        if found is None:
            found = descend(self.sizes, self.factors, np.zeros(len(self.steps), np.int64))
        return self.assignment(found)

    def cost(self, assignment: Assignment) -> float:
        """The sum of the terms, in `unit`.

        Raises:
            RangeError: not a width of each step.
        """
        return float(self.costs(self.indices(assignment)[None])[0])

    def costs(self, indices: Indices) -> npt.NDArray[np.float64]:
        """The cost of each row, (m, n_steps) places in the grids -> (m,)."""
        total = np.zeros(len(indices))
        # in the order of the terms, whatever m is: equal rows have equal bits
        for factor in self.factors:
            total += factor.table[tuple(indices[:, place] for place in factor.variables)]
        return total

    def indices(self, assignment: Sequence[int]) -> Indices:
        """Where the widths stand in their grids, (n_steps,).

        Raises:
            RangeError: not a width of each step.
        """
        if len(assignment) != len(self.steps):
            raise RangeError(f"{len(assignment)} widths for {len(self.steps)} steps")
        places = np.empty(len(self.steps), np.int64)
        for i, (step, width) in enumerate(zip(self.steps, assignment, strict=True)):
            if width not in step.widths:
                raise RangeError(f"step {step.name!r} has no width {width}; it has {step.widths}")
            places[i] = step.widths.index(width)
        return places

    def assignment(self, indices: Sequence[int] | Indices) -> Assignment:
        """The widths at places in the grids, (n_steps,)."""
        return tuple(step.widths[int(i)] for step, i in zip(self.steps, indices, strict=True))

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """The share of each step in the cost of the whole network; a term is split evenly over its groups."""
        found = np.zeros(len(self.steps))
        for factor in self.factors:
            for place in factor.variables:
                found[place] += factor.table.flat[-1] / len(factor.variables)
        total = self.cost(self.largest)
        return tuple((found / total).tolist()) if total > 0 else (0.0,) * len(self.steps)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of steps, tables and unit: equal for equal spaces, on any machine."""
        digest = hashlib.sha256(repr((self.steps, self.unit)).encode())
        for term in self.terms:
            digest.update(repr((term.name, term.groups, term.table.shape)).encode())
            digest.update(np.ascontiguousarray(term.table, "<f8").tobytes())
        return digest.hexdigest()[:16]

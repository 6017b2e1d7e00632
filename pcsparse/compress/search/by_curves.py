"""Searches that decide by sensitivity curves."""

from dataclasses import dataclass, replace
from typing import Self

from pcsparse.compress.search.curves import SensitivityCurves
from pcsparse.compress.search.task import Method


@dataclass(frozen=True)
class ByCurves(Method):
    """A method that measures curves within its evaluations where none are given; else it takes one.

    Attributes:
        curves: of a scan of the same space.
    """

    curves: SensitivityCurves | None = None

    @property
    def wants_curves(self) -> bool:
        """Unless it has them."""
        return self.curves is None

    def with_curves(self, curves: SensitivityCurves) -> Self:
        """By these curves."""
        return replace(self, curves=curves)

    def takes(self, evaluations: int) -> int:
        """One where the curves are there."""
        return evaluations if self.curves is None else 1

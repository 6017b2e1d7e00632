"""Parts of sweeps: some of the points, and two sweeps as one, with every column that a sweep has."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.errors import FormatError, RangeError

Rows = npt.NDArray[np.bool_] | npt.NDArray[np.intp]
"""(n,) bool over the points, or (m,) row numbers."""


def rows_of(sweep: Sweep, rows: Rows) -> Sweep:
    """The sweep with these points alone, in the order of `rows`."""
    # numbers once, and not a mask a column: half the time
    at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
    return replace(
        sweep,
        points=sweep.points.take(at, axis=0),
        intensity=sweep.intensity.take(at),
        targets=None if sweep.targets is None else sweep.targets.take(at),
        instances=None if sweep.instances is None else sweep.instances.take(at),
        beams=None if sweep.beams is None else sweep.beams.take(at),
    )


def finite_rows(sweep: Sweep) -> Sweep:
    """The sweep without points that have a NaN or infinite coordinate or intensity; itself without any.

    Raises:
        FormatError: points, intensity and targets differ in number.
    """
    check_lengths(sweep)
    finite = np.isfinite(sweep.points).all(axis=1) & np.isfinite(sweep.intensity)
    return sweep if finite.all() else rows_of(sweep, finite)


def check_lengths(sweep: Sweep) -> None:
    """Raise FormatError where points, intensity and targets differ in number."""
    lengths = {"points": len(sweep.points), "intensity": len(sweep.intensity)}
    if sweep.targets is not None:
        lengths["targets"] = len(sweep.targets)
    if len(set(lengths.values())) > 1:
        raise FormatError(
            f"{sweep.name}: {lengths} should be equal; labels and points must come from one sweep"
        )


def joined(first: Sweep, second: Sweep) -> Sweep:
    """The points of both under the name of the first.

    Instances stay apart: those of the second are numbered after those of the first. Instances and beams are
    None unless both sweeps have them.

    Raises:
        RangeError: one of them has no labels.
    """
    if first.targets is None or second.targets is None:
        missing = first.name if first.targets is None else second.name
        raise RangeError(f"mixing needs labels on both sweeps, {missing} has none")
    instances = beams = None
    if first.instances is not None and second.instances is not None:
        shift = first.instances.max(initial=0)
        later = np.where(second.instances > 0, second.instances + shift, 0)
        instances = np.concatenate([first.instances, later])
    if first.beams is not None and second.beams is not None:
        beams = np.concatenate([first.beams, second.beams])
    return replace(
        first,
        points=np.concatenate([first.points, second.points]),
        intensity=np.concatenate([first.intensity, second.intensity]),
        targets=np.concatenate([first.targets, second.targets]),
        instances=instances,
        beams=beams,
    )

"""Why a model would see nothing, or nonsense, in a cloud, and the flags of `pcsparse infer` that mend it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import InputSpec
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.infer import misplaced, unlike
from pcsparse.infer.case import Case
from pcsparse.infer.case import Fault as Fault
from pcsparse.infer.inspect import CloudReport

# in this order: a later check looks at the cloud as the flags of the earlier ones would leave it
_CHECKS: tuple[Callable[[Case], None], ...] = (
    unlike.empty,
    unlike.invalid,
    misplaced.stray,
    misplaced.frame,
    unlike.small,
    misplaced.tilt,
    misplaced.zeros,
    misplaced.origin,
    misplaced.ground,
    unlike.lasers,
    unlike.density,
    unlike.behind,
    unlike.crop,
    unlike.resolution,
    unlike.intensity,
    unlike.own,
    unlike.repeated,
)


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        report: of the cloud as given.
        faults: the grave ones first.
        placement: the given one with all that would mend it.
        tile: metres of the squares that would mend it, or the given ones; 0 for one pass.
        intensity_scale: what 1.0 is in the file, where the given or inferred scale is wrong; else None.
    """

    report: CloudReport
    faults: tuple[Fault, ...]
    placement: Placement
    tile: float = 0.0
    intensity_scale: float | None = None

    @property
    def grave(self) -> bool:
        """Whether a model would suffer."""
        return any(fault.grave for fault in self.faults)


def diagnose(
    cloud: PointCloud,
    spec: InputSpec,
    voxels: VoxelSettings,
    placement: Placement | None = None,
    tile: float = 0.0,
    report: CloudReport | None = None,
) -> Diagnosis:
    """Compare a cloud with what a model knows.

    All flags together mend all that can be mended: `placement` holds them.

    Args:
        cloud: as read.
        spec: the clouds that the model was trained on.
        voxels: of the model.
        placement: as given by the user.
        tile: metres of the squares in which it would be predicted; 0 for one pass.
        report: of the cloud under that placement and those voxels, where it is known.
    """
    placement = placement or Placement()
    if report is None:
        report = CloudReport.of(cloud, placement, voxels.voxel_size)
    case = Case(cloud, spec, voxels, placement, report, tile)
    for check in _CHECKS:
        if case.hopeless:
            break
        check(case)
    if case.tile and not tile:
        # squares have places of their own
        case.placement = replace(placement, origin=(0.0, 0.0, 0.0))
        case.faults = [fault for fault in case.faults if fault.kind not in ("origin", "ground")]
    faults = sorted(case.faults, key=lambda fault: not fault.grave)
    return Diagnosis(report, tuple(faults), case.placement, case.tile, case.intensity_scale)

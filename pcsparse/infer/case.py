"""A cloud on its way through the checks, and what they find."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import InputSpec
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.infer.inspect import CloudReport

# squares refuse them
_OF_ONE_PASS = ("--scale", "--up", "--origin", "--min-range", "--max-range")


@dataclass(frozen=True)
class Fault:
    """One way in which a cloud is not what a model takes.

    Attributes:
        kind: one word.
        text: a sentence with the values.
        flag: of `pcsparse infer`, mends it; None where none does.
        grave: whether predictions suffer; else it is worth knowing.
    """

    kind: str
    text: str
    flag: str | None = None
    grave: bool = True

    def __str__(self) -> str:
        """The sentence, and the flag."""
        return self.text if self.flag is None else f"{self.text}; {self.flag} would mend it"


@dataclass
class Case:
    """What the checks share: each may change the placement for those after it.

    Args:
        cloud: as read.
        spec: the clouds that the model was trained on.
        voxels: of the model.
        placement: how the cloud is shown so far.
        report: of the cloud under it.
        faults: found so far.
        tile: metres of the squares in which the cloud is predicted, each on its own ground; 0 for one pass.
        intensity_scale: what 1.0 is in the file, where the scale that was used is wrong.
        hopeless: whether no further check makes sense.
    """

    cloud: PointCloud
    spec: InputSpec
    voxels: VoxelSettings
    placement: Placement
    report: CloudReport
    tile: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    intensity_scale: float | None = None
    hopeless: bool = False

    def add(self, kind: str, text: str, flag: str | None = None, *, grave: bool = True) -> None:
        """Note a fault."""
        if self.tile and flag is not None and flag.startswith(_OF_ONE_PASS):
            flag = f"--tile 0 {flag}"
        self.faults.append(Fault(kind, text, flag, grave))

    def place(self, placement: Placement) -> None:
        """Look at the cloud under another placement from here on."""
        self.placement = placement
        self.report = CloudReport.of(self.cloud, placement, self.voxels.voxel_size)

    def points(self) -> npt.NDArray[np.float32]:
        """The finite points, as placed so far."""
        points = self.placement(self.cloud)
        return points[np.isfinite(points).all(axis=1)]

"""The camera beside the sensor, as KITTI has one: where it hangs, what it sees, and its files of numbers."""

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.mesh import rotate

# a pinhole camera of the size of KITTI's, 8 cm below and 27 cm before the sensor: x right, y down, z forward
CAMERA = np.array([[718.856, 0.0, 607.1928, 0.0], [0.0, 718.856, 185.2157, 0.0], [0.0, 0.0, 1.0, 0.0]])
IMAGE = (1242, 375)
"""Width and height of its image, pixels."""
BASELINES = {"P0": 0.0, "P1": -386.1448, "P2": 45.38225, "P3": -337.2877}
"""Focal length times the metres from camera 0 to the left, of KITTI's four cameras."""
TO_CAMERA = np.array(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27], [0.0, 0.0, 0.0, 1.0]]
)
"""(4, 4) from the sensor's frame to camera 0."""


def _row(matrix: Floats) -> str:
    # nanometres: what lies beyond is noise of the arithmetic; + 0.0 turns -0 into 0
    return " ".join(f"{value:.12e}" for value in np.round(matrix.ravel(), 9) + 0.0)


def pose_row(pose: Floats) -> str:
    """The 12 numbers of a pose (4, 4) in KITTI's text."""
    return _row(pose[:3])


def projection(camera: str) -> Floats:
    """(3, 4) from homogeneous points of camera 0's frame to pixels of `camera`, "P0" to "P3"."""
    matrix = CAMERA.copy()
    matrix[0, 3] = BASELINES[camera]
    return matrix


def calibration_text() -> str:
    """The text of a sequence's `calib.txt`: projections P0 to P3 and `Tr`, from the sensor to camera 0."""
    lines = [f"{name}: {_row(projection(name))}" for name in BASELINES]
    return "\n".join([*lines, f"Tr: {pose_row(TO_CAMERA)}"]) + "\n"


def object_calibration_text() -> str:
    """The text of a frame's `calib/NNNNNN.txt`: projections, sensor to camera, and identities."""
    lines = [f"{name}: {_row(projection(name))}" for name in BASELINES]
    lines += [
        f"R0_rect: {_row(np.eye(3))}",
        f"Tr_velo_to_cam: {pose_row(TO_CAMERA)}",
        f"Tr_imu_to_velo: {pose_row(np.eye(4))}",
    ]
    return "\n".join(lines) + "\n"


def camera_poses(poses: list[Floats]) -> Floats:
    """Poses of camera 0, each in the frame of the first, from sensor-to-world poses (4, 4).

    The pose of the sensor is inverse(Tr) @ pose @ Tr, in the frame of its first sweep.
    """
    first, back = inverse(poses[0]), inverse(TO_CAMERA)
    return np.stack([chain(TO_CAMERA, first, pose, back) for pose in poses])


def inverse(pose: Floats) -> Floats:
    """The inverse of a rigid pose (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -rotate(pose[:3, 3], out[:3, :3])
    return out


def chain(*poses: Floats) -> Floats:
    """The product of rigid poses (4, 4), added in a fixed order."""
    out = np.eye(4)
    for pose in poses:
        product = np.eye(4)
        product[:3, :3] = rotate(pose[:3, :3].T, out[:3, :3]).T
        product[:3, 3] = rotate(pose[:3, 3], out[:3, :3]) + out[:3, 3]
        out = product
    return out

"""Whether the files of one drive are read on one scale of intensity."""

from pcsparse.data.point_cloud import PointCloud


class ScaleWatch:
    """Compares each cloud with those of the same format before it.

    The scale of a file without one is inferred from its values: one of 0-255 that peaks at 1.5 reads as 0-1,
    and looks to a network like another sensor.
    """

    def __init__(self) -> None:
        # by file ending: the first cloud that says something
        self._first: dict[str, tuple[float, str]] = {}

    def warning(self, cloud: PointCloud) -> str | None:
        """What to tell the user of a cloud; None if its scale is that of the first of its format."""
        if cloud.intensity is None or not (cloud.intensity > 0).any():
            # zeros are zeros on every scale
            return None
        scale, source = self._first.setdefault(
            cloud.source.suffix.lower(), (cloud.intensity_scale, str(cloud.source))
        )
        if scale == cloud.intensity_scale:
            return None
        return (
            f"intensity 1.0 is {cloud.intensity_scale:g} here and {scale:g} in {source}: if one sensor wrote "
            f"both, give --intensity-scale {max(scale, cloud.intensity_scale):g} for all"
        )

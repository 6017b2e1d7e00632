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
        self._told = set[tuple[str, float]]()

    def warning(self, cloud: PointCloud) -> str | None:
        """What to tell the user; None for the scale of the first of its format, or one told before."""
        if cloud.intensity is None or not (cloud.intensity > 0).any():
            # zeros are zeros on every scale
            return None
        ending = cloud.source.suffix.lower()
        scale, source = self._first.setdefault(ending, (cloud.intensity_scale, str(cloud.source)))
        if scale == cloud.intensity_scale or (ending, cloud.intensity_scale) in self._told:
            return None
        self._told.add((ending, cloud.intensity_scale))
        return (
            f"intensity 1.0 is {cloud.intensity_scale:g} here and {scale:g} in {source}: if one sensor wrote "
            f"both, give --intensity-scale {max(scale, cloud.intensity_scale):g} for all"
        )

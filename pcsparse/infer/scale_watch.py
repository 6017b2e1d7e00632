"""Whether the files of one drive are read on one scale of intensity."""

from pathlib import Path


class ScaleWatch:
    """Compares each file with those of the same format before it.

    The scale of a file without one is inferred from its values: one of 0-255 that peaks at 1.5 reads as 0-1,
    and looks to a network like another sensor.
    """

    def __init__(self) -> None:
        # by file ending: the first file that says something
        self._first: dict[str, tuple[float, str]] = {}
        self._told = set[tuple[str, float]]()

    def warning(self, file: Path, scale: float | None) -> str | None:
        """What to tell the user; None for the scale of the first of its format, or one told before.

        Args:
            file: where the intensity is from.
            scale: what 1.0 is there, `known_scale` of a cloud or of tiles.
        """
        if scale is None:
            return None
        ending = file.suffix.lower()
        first, source = self._first.setdefault(ending, (scale, str(file)))
        if scale == first or (ending, scale) in self._told:
            return None
        self._told.add((ending, scale))
        return (
            f"intensity 1.0 is {scale:g} here and {first:g} in {source}: if one sensor wrote both, "
            f"give --intensity-scale {max(scale, first):g} for all"
        )

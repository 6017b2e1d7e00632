"""Names for the small tuples that every layer passes around."""

Triple = tuple[int, int, int]
"""One int an axis, in the order x, y, z."""

Vec3 = tuple[float, float, float]
"""Metres, in the order x, y, z."""

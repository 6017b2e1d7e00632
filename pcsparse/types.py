"""Names for the small tuples that every layer passes around."""

Triple = tuple[int, int, int]
"""One int an axis, in the order x, y, z."""

Bounds = tuple[tuple[int, ...], tuple[int, ...]]
"""The lowest and the highest (batch, x, y, z) that coordinates may have."""

Vec3 = tuple[float, float, float]
"""Metres, in the order x, y, z."""

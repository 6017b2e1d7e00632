"""Rows of sweeps to write into files."""

import numpy as np


def street(n: int = 60, *, columns: int = 4, seed: int = 7) -> np.ndarray:
    """(n, columns) float32: x, y, z on both sides of 0 metres, intensity 0-1, ring, anything."""
    rng = np.random.default_rng(seed)
    rows = np.empty((n, max(columns, 6)), dtype=np.float32)
    rows[:, :3] = rng.uniform([-70, -40, -2], [70, 40, 4], (n, 3))
    rows[:, 3] = rng.integers(0, 100, n) / 100
    rows[:, 4] = rng.integers(0, 32, n)
    rows[:, 5:] = rng.uniform(-1, 1, (n, rows.shape[1] - 5))
    return rows[:, :columns].copy()

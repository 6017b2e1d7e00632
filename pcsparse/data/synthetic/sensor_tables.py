"""Numbers of real LiDARs, measured on their sweeps or from their manuals; `sensor` says what they mean.

Elevations are in degrees, in the order of the output rings. Roofs are degrees of elevation, for equal sectors
of azimuth from straight ahead and to the left round, below which the recording car hides the road.
"""

# measured on a real HDL-64E sweep, top to bottom: 32 beams about 0.33 apart, 32 about 0.5 apart
HDL64E = (
    2.43, 2.05, 1.78, 1.34, 1.07, 0.67, 0.42, 0.05, -0.29, -0.69, -0.99, -1.31, -1.70,
    -2.02, -2.35, -2.71, -3.01, -3.39, -3.66, -4.02, -4.32, -4.63, -4.96, -5.30, -5.66, -5.98,
    -6.30, -6.57, -6.95, -7.30, -7.51, -7.80, -8.38, -8.89, -9.35, -9.74, -10.19, -10.80, -11.30,
    -11.74, -12.20, -12.64, -13.18, -13.72, -14.27, -14.68, -15.17, -15.55, -16.18, -16.71, -17.26, -17.72,
    -18.22, -18.63, -19.06, -19.62, -20.12, -20.82, -21.29, -21.72, -22.14, -22.80, -23.25, -23.75,
)  # fmt: skip

# from the rings that are missing in four real HDL-64E sweeps
HDL64E_ROOF = (
    -20.5, -21.6, -23.0, -23.3, -23.5, -23.7, -23.7, -23.8, -23.8, -23.8, -23.8, -23.8,
    -22.7, -21.7, -23.0, -19.9, -16.2, -16.6, -16.6, -16.3, -18.3, -23.0, -22.4, -22.2,
    -23.8, -23.8, -23.8, -22.8, -17.5, -17.4, -22.0, -23.6, -22.9, -23.2, -21.8, -20.5,
)  # fmt: skip

# each laser of the HDL-64E answers the same surface with its own line, slope x intensity + shift: what makes
# neighbouring rings agree on the same places in four real sweeps (rings 35, 36, 42 and 51 are nearly blind to
# asphalt in all four)
HDL64E_SLOPE = (
    0.92, 0.85, 0.97, 0.74, 1.06, 0.79, 1.09, 0.78, 1.09, 0.82, 0.91, 1.04, 1.20, 1.15, 0.89, 0.97,
    0.98, 1.00, 1.15, 0.87, 0.88, 0.84, 0.95, 0.94, 0.90, 0.96, 0.93, 1.02, 1.00, 0.96, 1.03, 0.85,
    1.17, 1.13, 1.05, 1.38, 1.36, 1.01, 0.90, 0.81, 1.14, 1.04, 1.26, 0.94, 0.93, 0.97, 1.00, 1.08,
    1.14, 0.95, 0.81, 1.25, 1.08, 1.16, 1.17, 1.05, 0.84, 0.79, 1.23, 1.13, 1.18, 0.93, 0.84, 0.74,
)  # fmt: skip
HDL64E_SHIFT = (
    0.06, 0.05, -0.02, 0.05, -0.03, 0.06, 0.02, 0.07, 0.02, 0.04, 0.04, 0.03, 0.01, -0.01, 0.04, 0.01,
    0.02, 0.01, 0.00, 0.03, 0.06, -0.02, 0.04, 0.06, 0.02, 0.02, 0.04, 0.02, 0.03, -0.03, 0.03, 0.08,
    -0.03, -0.02, 0.02, -0.17, -0.22, 0.01, 0.10, 0.11, -0.05, 0.00, -0.18, 0.03, 0.03, 0.03, 0.03, -0.03,
    -0.07, 0.06, 0.13, -0.21, -0.01, -0.08, -0.09, 0.00, 0.08, 0.13, -0.12, -0.08, -0.11, 0.05, 0.12, 0.13,
)  # fmt: skip

# HDL-32E manual: 32 beams 1.33 apart from -30.67 to 10.67, bottom to top as nuScenes numbers its rings;
# measured medians on a real nuScenes sweep differ by 0.01 at most
HDL32E = tuple(round(-30.67 + index * 41.34 / 31, 2) for index in range(32))

# from the firings of one real nuScenes sweep that end on the car's own roof
HDL32E_ROOF = (
    -22.0, -23.3, -24.7, -22.0, -22.0, -27.3, -30.0, -28.7, -30.0, -31.5, -31.5, -31.5,
    -30.0, -27.3, -24.7, -22.0, -20.7, -18.0, -18.0, -20.7, -20.7, -24.7, -27.3, -30.0,
    -31.5, -31.5, -31.5, -30.0, -28.7, -30.0, -27.3, -22.0, -22.0, -24.7, -22.0, -22.0,
)  # fmt: skip

# VLP-16 manual: 2 degrees apart
VLP16 = tuple(float(15 - 2 * index) for index in range(16))

# VLP-32C manual; measured medians on two real Argoverse 2 sweeps differ by 0.06 at most
VLP32C = (
    15.0, 10.333, 7.0, 4.667, 3.333, 2.333, 1.667, 1.333, 1.0, 0.667, 0.333, 0.0, -0.333, -0.667, -1.0,
    -1.333, -1.667, -2.0, -2.333, -2.667, -3.0, -3.333, -3.667, -4.0, -4.667, -5.333, -6.148, -7.254,
    -8.843, -11.31, -15.639, -25.0,
)  # fmt: skip  # fmt: skip


def even(top: float, rings: int) -> tuple[float, ...]:
    """`rings` elevations at even steps from `top` degrees to as far below the horizon."""
    return tuple(round(top - index * 2 * top / (rings - 1), 4) for index in range(rings))

"""Numbers of real LiDARs, measured on their sweeps or from their manuals; `sensor` says what they mean.

Elevations are in degrees, in the order of the output rings. What is blocked is a ring and two azimuths in
degrees, counted from straight ahead to the left, between which the recording car is in the way.
"""

# measured on a real HDL-64E sweep, top to bottom: 32 beams about 0.33 apart, 32 about 0.5 apart
HDL64E = (
    2.43, 2.05, 1.78, 1.34, 1.07, 0.67, 0.42, 0.05, -0.29, -0.69, -0.99, -1.31, -1.70,
    -2.02, -2.35, -2.71, -3.01, -3.39, -3.66, -4.02, -4.32, -4.63, -4.96, -5.30, -5.66, -5.98,
    -6.30, -6.57, -6.95, -7.30, -7.51, -7.80, -8.38, -8.89, -9.35, -9.74, -10.19, -10.80, -11.30,
    -11.74, -12.20, -12.64, -13.18, -13.72, -14.27, -14.68, -15.17, -15.55, -16.18, -16.71, -17.26, -17.72,
    -18.22, -18.63, -19.06, -19.62, -20.12, -20.82, -21.29, -21.72, -22.14, -22.80, -23.25, -23.75,
)  # fmt: skip

# azimuths at which at most half of a ring's pulses come back from beyond 2.9 m in three of four real HDL-64E
# sweeps: KITTI's car, its rack and its rails
HDL64E_BLOCKED = (
    (42, 157, 166), (42, 198, 207), (43, 154, 163), (43, 196, 204), (44, 156, 166), (44, 198, 207),
    (45, 154, 163), (45, 196, 204), (46, 157, 165), (46, 199, 206), (46, 298, 300), (47, 155, 162),
    (47, 197, 203), (47, 286, 295), (48, 159, 166), (48, 199, 205), (48, 285, 303), (49, 157, 164),
    (49, 197, 202), (49, 280, 299), (50, 160, 165), (50, 198, 204), (50, 283, 304), (51, 158, 164),
    (51, 196, 200), (51, 277, 299), (52, 160, 165), (52, 169, 194), (52, 199, 203), (52, 282, 303),
    (53, 157, 201), (53, 277, 299), (54, 160, 205), (54, 283, 305), (55, 128, 130), (55, 157, 202),
    (55, 278, 300), (56, 130, 136), (56, 158, 206), (56, 231, 237), (56, 283, 304), (57, 126, 133),
    (57, 154, 204), (57, 226, 234), (57, 278, 298), (57, 348, 11), (58, 128, 137), (58, 155, 208),
    (58, 229, 237), (58, 283, 303), (58, 346, 15), (59, 125, 134), (59, 152, 206), (59, 225, 234),
    (59, 278, 295), (59, 344, 16), (60, 129, 139), (60, 154, 211), (60, 230, 239), (60, 284, 298),
    (60, 324, 328), (60, 331, 336), (60, 344, 18), (61, 25, 30), (61, 34, 38), (61, 126, 135),
    (61, 137, 141), (61, 150, 209), (61, 226, 235), (61, 280, 290), (61, 321, 326), (61, 328, 332),
    (61, 342, 19), (62, 28, 33), (62, 35, 40), (62, 129, 138), (62, 140, 146), (62, 152, 212),
    (62, 223, 226), (62, 229, 238), (62, 285, 293), (62, 323, 335), (62, 341, 20), (63, 25, 38),
    (63, 126, 212), (63, 216, 234), (63, 279, 284), (63, 320, 332), (63, 340, 20),
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

# metres, and there the factor on intensity and the least that is not reported as 0: the values at which the
# share of zeros and the mean of the others equal those of four real sweeps in bins of 5 m. Ground and what
# stands on it ask for the same ones, so that it is the range and not the angle
HDL64E_REACH = (
    (2.5, 0.86, 0.07), (7.5, 1.00, 0.07), (12.5, 1.15, 0.07), (17.5, 1.18, 0.07), (22.5, 1.08, 0.08),
    (27.5, 0.92, 0.13), (32.5, 0.80, 0.15), (37.5, 0.72, 0.18), (42.5, 0.56, 0.21), (47.5, 0.54, 0.24),
    (52.5, 0.45, 0.29), (57.5, 0.42, 0.34), (62.5, 0.33, 0.42), (67.5, 0.25, 0.53), (75.0, 0.22, 0.65),
)  # fmt: skip

# HDL-32E manual: 32 beams 1.33 apart from -30.67 to 10.67, bottom to top as nuScenes numbers its rings;
# measured medians on a real nuScenes sweep differ by 0.01 at most
HDL32E = tuple(round(-30.67 + index * 41.34 / 31, 2) for index in range(32))

# azimuths at which the firings of a real nuScenes sweep end on the car's own roof
HDL32E_BLOCKED = (
    (0, 118, 242), (0, 272, 88), (1, 74, 82), (1, 126, 234), (1, 276, 288), (1, 296, 64), (2, 132, 228),
    (2, 282, 286), (2, 302, 58), (3, 138, 224), (3, 308, 52), (4, 142, 218), (4, 312, 48), (5, 34, 48),
    (5, 146, 214), (5, 312, 326), (5, 338, 20), (6, 10, 14), (6, 36, 46), (6, 150, 210), (6, 314, 326),
    (6, 344, 350), (6, 352, 6), (7, 156, 206), (7, 320, 324), (8, 174, 186), (9, 174, 186), (10, 176, 184),
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

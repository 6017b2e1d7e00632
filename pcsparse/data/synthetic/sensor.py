"""LiDAR models: where the beams point, how wide they are, and what one gets back from a surface."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pcsparse.data.synthetic import sensor_tables as tables
from pcsparse.data.synthetic.arrays import Bools, Floats, Ints
from pcsparse.data.synthetic.sectors import Sector, aside, within
from pcsparse.errors import UnsupportedError


@dataclass(frozen=True)
class Scale:
    """How a sensor reports intensity; the simulator's own scale is that of the HDL-64E.

    Args:
        step: of the 0 to 1 that it reports.
        floor: reported is floor + gain x value ** power.
        gain: see `floor`.
        power: see `floor`.
        grain: how much of the spread from pulse to pulse it reports, of that of the HDL-64E.
        slope: a ring; each laser sees slope x value + shift. Empty: all alike.
        shift: a ring, as above.
        reach: rows of (metres, factor, least): that far away a value is seen `factor` times as bright, and as
            0 where it is weaker than `least`; between rows linear. Empty: alike at any range.
    """

    step: float = 0.01
    floor: float = 0.0
    gain: float = 1.0
    power: float = 1.0
    grain: float = 1.0
    slope: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    reach: tuple[tuple[float, float, float], ...] = ()

    def report(
        self,
        value: Floats,
        ring: Ints | None = None,
        distance: Floats | None = None,
        speckle: Floats | float = 1.0,
    ) -> Floats:
        """(n,) float32 in 0 … 1 at the sensor's steps.

        Args:
            value: (n,) on the simulator's own scale.
            ring: (n,) the lasers that see it; None: all alike.
            distance: (n,) metres; None: alike at any range.
            speckle: (n,) factors of the strength by which a weak pulse is seen at all.
        """
        if ring is not None and self.slope:
            # dark surfaces stay dark: real rings differ by a sixth of their shift where others see nothing
            shift = np.array(self.shift)[ring] * np.clip(0.15 + 4.2 * value, 0.15, 1.0)
            value = value * np.array(self.slope)[ring] + shift
        if distance is not None and self.reach:
            metres, factor, least = np.array(self.reach).T
            seen = value * speckle >= np.interp(distance, metres, least)
            value = np.where(seen, value * np.interp(distance, metres, factor), 0.0)
        value = self.floor + self.gain * np.maximum(value, 0.0) ** self.power
        return (np.round(np.minimum(value, 1.0) / self.step) * self.step).astype(np.float32)


# what passes where the own car dims a beam: 52 to 92 % of such returns are 0 in four real sweeps, the others
# have half of the mean
_DIMMED = 0.15
# share of the light missing right beside what blocks a beam: within half a degree, to 1, 1.5, 2 and 3
# degrees returns have 0.47, 0.66, 0.75, 0.83 and 0.87 of the mean in four real sweeps
_SHADOW = 0.75


@dataclass(frozen=True)
class Sensor:
    """A spinning LiDAR on a car's roof.

    Args:
        name: of the preset.
        elevations: degrees, in the order of the output rings.
        columns: firings a turn.
        encoder_step: degrees; firings happen at its multiples, so steps of one and of two mix; 0: even steps.
        period: seconds a turn.
        height: metres above the road.
        lifts: metres above the origin of the points at which each beam leaves; empty: at the origin.
        clockwise: whether it turns from left to right, seen from above.
        start: degrees of azimuth, to the left of straight ahead, at which a turn starts and ends.
        min_range: metres; nearer returns are dropped.
        max_range: metres.
        range_noise: metres, one standard deviation.
        range_quantum: metres, the step of the range.
        divergence: milliradians across and upright, the full angle in which all but 1/e² of the light leaves.
        separation: metres; what lies closer together along a beam is one return.
        reports: which return of a pulse.
        constant_drop: share of pulses lost for no visible reason.
        faint: relative power at which half of the pulses are lost: reflectivity x cosine x air / range²
            (1 / m²).
        softness: width of that transition, in units of ln(power).
        haze: 1 / m, one-way loss in clear air: power falls by exp(-2 haze range).
        scale: how it reports intensity.
        blocked: ring and two azimuths in degrees, from straight ahead to the left round, between which the
            own car is in the way.
        dimmed: likewise, where the own car cuts off most of a beam's light.
        penumbra: degrees beside what is blocked in which the light lost there falls to 1 / e; 0: sharp edges.
        roof_depth: metres from the sensor down to what is in the way; 0: that does not answer.
        fittings: what else of the own car answers now and then: x, y, z in metres of the sensor frame, the
            spread in metres, and returns a turn.
    """

    name: str
    elevations: tuple[float, ...]
    columns: int
    encoder_step: float
    period: float
    height: float
    lifts: tuple[float, ...] = ()
    clockwise: bool = False
    start: float = 180.0
    min_range: float = 1.0
    max_range: float = 80.0
    range_noise: float = 0.02
    range_quantum: float = 0.002
    divergence: tuple[float, float] = (2.0, 2.0)
    separation: float = 0.75
    reports: Literal["strongest", "first"] = "strongest"
    constant_drop: float = 0.02
    faint: float = 1.6e-6
    softness: float = 0.5
    haze: float = 4e-4
    scale: Scale = Scale()
    blocked: tuple[Sector, ...] = ()
    dimmed: tuple[Sector, ...] = ()
    penumbra: float = 0.0
    roof_depth: float = 0.0
    fittings: tuple[tuple[float, float, float, float, float], ...] = ()

    @property
    def rings(self) -> int:
        """Number of beams."""
        return len(self.elevations)

    @property
    def lift(self) -> Floats:
        """(rings,) float64, metres above the origin of the points at which each beam leaves."""
        return np.array(self.lifts[: self.rings] or [0.0] * self.rings)

    def azimuths(self, phase: float) -> Floats:
        """(columns,) float64 radians in (0, 2 pi), ascending, turned by `phase` in [0, 1) of a step."""
        turn = 2 * np.pi
        if not self.encoder_step:
            return (np.arange(self.columns) + phase) * (turn / self.columns)
        ticks = round(360.0 / self.encoder_step)
        tick = np.floor(np.arange(self.columns) * (ticks / self.columns))
        return (tick + phase) * (turn / ticks)

    def phases(self, azimuth: Floats) -> Floats:
        """When the sensor looks at `azimuth` (radians): -0.5 to 0.5 of a turn from the turn's middle."""
        way = -1.0 if self.clockwise else 1.0
        since = (way * (azimuth - np.radians(self.start))) % (2 * np.pi)
        return since / (2 * np.pi) - 0.5

    def free(self, azimuth: Floats) -> Bools:
        """(rings, n) whether the own vehicle lets the beams pass at the azimuths (n,), in radians."""
        return ~within(self.blocked, self.rings, azimuth)

    def passed(self, azimuth: Floats) -> Floats:
        """(rings, n) how much of the light of a free beam passes the own vehicle there, 0 to 1."""
        light = np.ones((self.rings, len(azimuth)))
        if self.penumbra:
            light -= _SHADOW * np.exp(-aside(self.blocked, self.rings, azimuth) / self.penumbra)
        return np.where(within(self.dimmed, self.rings, azimuth), _DIMMED, light)


# the divergence of a Gaussian beam between the points of 1 / e², from that at half power
_FROM_FWHM = 1.699

# the reflectivity that other sensors report, 0 to 255, beside the compressed scale of the HDL-64E: quantiles
# of a real nuScenes and two real Argoverse 2 sweeps (medians 12, 95 % below 60 to 68) beside simulated ones;
# on the road of the former neighbours differ by 0.07 of their mean
_CALIBRATED = Scale(1 / 255, floor=0.006, gain=1.3, power=2.6, grain=0.25)

# data sheet of the first generation: 0.8 to 120 m, steps of 12 mm, 33.2 degrees of 64 or 45 of 128 beams,
# 0.13 or 0.18 degrees at half power, 1.5 to 10 cm of noise; what is faint, and the scale, are guesses
_OS1 = Sensor(
    "os1-64",
    tables.even(16.6, 64),
    1024,
    0.0,
    0.1,
    1.73,
    clockwise=True,
    min_range=0.8,
    max_range=120.0,
    range_noise=0.025,
    range_quantum=0.012,
    divergence=(_FROM_FWHM * 2.27, _FROM_FWHM * 2.27),
    separation=1.0,
    scale=_CALIBRATED,
    faint=3e-6,
)

SENSORS = {
    # manual of the S2 as commonly quoted: 2 mrad, pulses of 5 ns (so 0.75 m), 0.9 m at least. 2,160 firings a
    # turn at steps of 0.179 and 0.09 degrees, next to no loss on near road, nothing beyond 80 m, and the
    # returns of the rack and the rails of KITTI's car: measured on four real sweeps
    "hdl64e": Sensor(
        "hdl64e",
        tables.HDL64E,
        2160,
        0.0895,
        0.1,
        1.73,
        lifts=tables.HDL64E_LIFT,
        # facades 10 m away scatter by 0.009 m in four real sweeps; noise grows from half of this at 0 m
        range_noise=0.012,
        constant_drop=0.006,
        scale=Scale(slope=tables.HDL64E_SLOPE, shift=tables.HDL64E_SHIFT, reach=tables.HDL64E_REACH),
        blocked=tables.HDL64E_BLOCKED,
        dimmed=tables.HDL64E_DIMMED,
        penumbra=1.0,
        fittings=(
            (-1.10, 1.18, -0.58, 0.10, 15.0),
            (-0.75, -1.28, -0.60, 0.10, 13.0),
            (1.50, -1.05, -0.75, 0.05, 2.5),
            (2.50, 0.50, -0.91, 0.03, 0.7),
            (2.55, -0.49, -0.92, 0.03, 0.7),
        ),
    ),
    # manual: 2.79 mrad, 100 m, 2 mm. 1,084 columns, 20 turns a second clockwise from the left, the roof
    # 0.35 m below, 5 mm of noise near by, a hundredth lost on near road: measured on a real nuScenes sweep
    "hdl32e": Sensor(
        "hdl32e",
        tables.HDL32E,
        1084,
        0.0,
        0.05,
        1.84,
        clockwise=True,
        start=92.0,
        min_range=0.35,
        max_range=105.0,
        range_noise=0.007,
        divergence=(2.8, 2.8),
        separation=1.0,
        scale=_CALIBRATED,
        constant_drop=0.01,
        blocked=tables.HDL32E_BLOCKED,
        roof_depth=0.35,
    ),
    # its manual as commonly quoted, not read again: 0.2 degrees at 10 turns a second, 3 cm, 100 m, returns
    # 1 m apart, 3.0 x 1.2 mrad; the intensity's scale is the HDL-32E's
    "vlp16": Sensor(
        "vlp16",
        tables.VLP16,
        1800,
        0.0,
        0.1,
        1.73,
        clockwise=True,
        max_range=100.0,
        divergence=(3.0, 1.2),
        separation=1.0,
        scale=_CALIBRATED,
    ),
    # likewise: as the VLP-16, but 200 m at steps of 4 mm, 3.0 x 1.5 mrad
    "vlp32c": Sensor(
        "vlp32c",
        tables.VLP32C,
        1800,
        0.0,
        0.1,
        1.73,
        clockwise=True,
        max_range=200.0,
        range_quantum=0.004,
        divergence=(3.0, 1.5),
        separation=1.0,
        scale=_CALIBRATED,
        faint=4e-7,
    ),
    "os1-64": _OS1,
    "os1-128": replace(
        _OS1,
        name="os1-128",
        elevations=tables.even(22.5, 128),
        divergence=(_FROM_FWHM * 3.14, _FROM_FWHM * 3.14),
    ),
}


def sensor_named(name: str) -> Sensor:
    """The preset `name`.

    Raises:
        UnsupportedError: no such preset.
    """
    if name not in SENSORS:
        raise UnsupportedError(f"no sensor {name!r}; choose one of: {', '.join(SENSORS)}")
    return SENSORS[name]

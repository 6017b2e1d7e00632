"""LiDAR models: where the beams point, and what one gets back from a surface."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.errors import UnsupportedError

# degrees, top to bottom, measured on a real HDL-64E sweep: 32 beams about 0.33 apart, 32 about 0.5 apart
_HDL64E = (
    2.43, 2.05, 1.78, 1.34, 1.07, 0.67, 0.42, 0.05, -0.29, -0.69, -0.99, -1.31, -1.70,
    -2.02, -2.35, -2.71, -3.01, -3.39, -3.66, -4.02, -4.32, -4.63, -4.96, -5.30, -5.66, -5.98,
    -6.30, -6.57, -6.95, -7.30, -7.51, -7.80, -8.38, -8.89, -9.35, -9.74, -10.19, -10.80, -11.30,
    -11.74, -12.20, -12.64, -13.18, -13.72, -14.27, -14.68, -15.17, -15.55, -16.18, -16.71, -17.26, -17.72,
    -18.22, -18.63, -19.06, -19.62, -20.12, -20.82, -21.29, -21.72, -22.14, -22.80, -23.25, -23.75,
)  # fmt: skip

# degrees per 10 degrees of azimuth: below it the recording car's own roof and rack hide the road; from the
# rings that are missing in four real sweeps
_ROOF = (
    -20.5, -21.6, -23.0, -23.3, -23.5, -23.7, -23.7, -23.8, -23.8, -23.8, -23.8, -23.8,
    -22.7, -21.7, -23.0, -19.9, -16.2, -16.6, -16.6, -16.3, -18.3, -23.0, -22.4, -22.2,
    -23.8, -23.8, -23.8, -22.8, -17.5, -17.4, -22.0, -23.6, -22.9, -23.2, -21.8, -20.5,
)  # fmt: skip


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
        min_range: metres; nearer returns are dropped.
        max_range: metres.
        range_noise: metres, one standard deviation.
        range_quantum: metres, the step of the range.
        constant_drop: share of pulses lost for no visible reason.
        faint: relative power at which half of the pulses are lost: reflectivity x cosine / range² (1 / m²).
        softness: width of that transition, in units of ln(power).
        roof: degrees of elevation below which the own roof is in the way, for equal sectors of azimuth, from
            straight ahead and to the left round; empty if nothing is in the way.
    """

    name: str
    elevations: tuple[float, ...]
    columns: int
    encoder_step: float
    period: float
    height: float
    min_range: float = 1.0
    max_range: float = 80.0
    range_noise: float = 0.02
    range_quantum: float = 0.002
    constant_drop: float = 0.02
    faint: float = 1.6e-6
    softness: float = 0.5
    roof: tuple[float, ...] = ()

    @property
    def rings(self) -> int:
        """Number of beams."""
        return len(self.elevations)

    def azimuths(self, phase: float) -> Floats:
        """(columns,) float64 radians in (0, 2 pi), ascending, turned by `phase` in [0, 1) of a step."""
        turn = 2 * np.pi
        if not self.encoder_step:
            return (np.arange(self.columns) + phase) * (turn / self.columns)
        ticks = round(360.0 / self.encoder_step)
        tick = np.floor(np.arange(self.columns) * (ticks / self.columns))
        return (tick + phase) * (turn / ticks)

    def shaded(self, azimuth: Floats) -> Floats:
        """Elevation in radians below which the own vehicle hides the world, at `azimuth` in radians."""
        if not self.roof:
            return np.full(np.shape(azimuth), -np.pi)
        knots = np.radians(np.arange(len(self.roof)) * (360.0 / len(self.roof)) + 180.0 / len(self.roof))
        return np.interp(azimuth, knots, np.radians(self.roof), period=2 * np.pi)


SENSORS = {
    # 2,160 firings a turn at steps of 0.179 and 0.09 degrees, and next to no loss on near road: measured
    "hdl64e": Sensor("hdl64e", _HDL64E, 2160, 0.0895, 0.1, 1.73, constant_drop=0.006, roof=_ROOF),
    "hdl32e": Sensor(
        "hdl32e", tuple(np.linspace(10.67, -30.67, 32).tolist()), 1086, 0.0, 0.05, 1.84, 1.0, 70.0
    ),
    "vlp16": Sensor("vlp16", tuple(np.linspace(15.0, -15.0, 16).tolist()), 1800, 0.0, 0.1, 1.73, 1.0, 80.0),
}


def sensor_named(name: str) -> Sensor:
    """The preset `name`.

    Raises:
        UnsupportedError: no such preset.
    """
    if name not in SENSORS:
        raise UnsupportedError(f"no sensor {name!r}; choose one of: {', '.join(SENSORS)}")
    return SENSORS[name]

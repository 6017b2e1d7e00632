"""Results and curves that hold every bound, to be changed one at a time."""

from pcsparse.hardware.eie_layers import EIELayer
from pcsparse.hardware.eie_study import LayerCurves, LayerResult, OnePass

LAYER = EIELayer("Alex-7", 4096, 4096, 0.09, 0.353, 11.7, 12.2)
RESULT = LayerResult(
    layer=LAYER,
    n_weights=1_500_000,
    closed_us=12.42,
    floor_us=12.7,
    theory_us=12.41,
    actual_us=12.9,
    energy_uj=4.5,
    power_uj=7.6,
    exact=True,
    row_batches=1,
    one_pass=None,
    misfits=(),
    seconds=0.3,
)
ONE_PASS = OnePass(13.1, 13.1, 13.4)
CURVES = LayerCurves(
    name="Alex-7",
    efficiency=(0.5, 0.8, 0.9, 0.96, 0.97, 0.97, 0.97, 0.97, 0.97),
    reads=(2_470_000, 1_730_000, 1_360_000, 1_180_000, 1_090_000),
    reads_kept=(2_400_000, 1_600_000, 1_000_000, 500_000, 250_000),
    cycles=(64_000, 32_000, 16_000, 8_000, 4_000, 2_100, 1_100, 600, 400),
    real_work=(0.5, 0.5, 0.52, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0),
    balance=(1.0, 1.0, 0.99, 0.98, 0.97, 0.95, 0.9, 0.85, 0.6),
)
IRREGULAR = LayerCurves(
    name="NT-We",
    efficiency=CURVES.efficiency,
    reads=CURVES.reads,
    reads_kept=CURVES.reads_kept,
    cycles=(64_000, 32_000, 16_000, 8_000, 4_000, 2_500, 1_900, 1_800, 1_700),
    real_work=CURVES.real_work,
    balance=CURVES.balance,
)

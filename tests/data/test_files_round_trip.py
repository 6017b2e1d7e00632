"""Any columns of any dtype come back from every format, as far as the format has them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pcsparse.data.files import write_classes
from pcsparse.data.files_table import CLASS_COLUMN, CONFIDENCE_COLUMN, PointClasses, columns_of
from tests.data.test_files_write import table_in

# what PLY and LAS lack becomes the next wider type: compared by value
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8")
NAMES = st.from_regex(r"\A[a-z][a-z0-9_]{0,11}\Z").filter(lambda name: name not in ("x", "y", "z"))
# the names of standard dimensions are tested by name: there values may be spread over other bits
TAKEN = {"intensity", "red", "green", "blue", "scan", "classification", "i"}


@st.composite
def tables(draw):
    n = draw(st.integers(1, 7))
    kind = draw(st.sampled_from((np.float32, np.float64)))
    far = draw(st.sampled_from((0.0, 637_179.25, -5e6))) if kind == np.float64 else 0.0
    metres = st.floats(-200, 200, width=32, allow_subnormal=False)
    xyz = draw(hnp.arrays(np.float32, (n, 3), elements=metres)).astype(kind) + far
    columns = {axis: xyz[:, i] for i, axis in enumerate("xyz")}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        if dtype.kind == "f":
            elements = st.floats(width=8 * dtype.itemsize, allow_nan=False)
        else:
            # what a double counts exactly
            low = 0 if dtype.kind == "u" else -(2 ** min(8 * dtype.itemsize - 1, 53))
            elements = st.integers(low, 2 ** min(8 * dtype.itemsize - (dtype.kind == "i"), 53) - 1)
        if name not in TAKEN:
            columns[name] = draw(hnp.arrays(dtype, n, elements=elements))
    return columns


@pytest.mark.parametrize("ending", ["npy", "npz", "pcd", "ply", "las", "laz", "e57", "feather", "csv", "txt"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=tables())
def test_round_trip(tmp_path, ending, columns):
    n = len(columns["x"])
    np.save(tmp_path / "in.npy", columns_of(columns))
    classes = PointClasses((np.arange(n) * 9001).astype(np.uint16), np.linspace(0, 1, n, dtype=np.float32))
    write_classes(tmp_path / f"out.{ending}", tmp_path / "in.npy", classes)
    # and again in the same format, which must keep all
    write_classes(tmp_path / f"again.{ending}", tmp_path / f"out.{ending}", classes)
    for name in ("out", "again"):
        found = table_in(tmp_path / f"{name}.{ending}")
        np.testing.assert_array_equal(found[CLASS_COLUMN], classes.raw_ids)
        # text has as many digits as give back a number of the size
        confidence = found[CONFIDENCE_COLUMN].astype(np.float32)
        np.testing.assert_array_equal(confidence, classes.confidence)
        for column, values in columns.items():
            got = found[f"file_{column}"] if f"file_{column}" in found else found[column]
            if column in ("x", "y", "z") and ending in ("las", "laz"):
                np.testing.assert_allclose(got, values, rtol=0, atol=5.1e-5)
            else:
                same = got.astype(values.dtype) if ending in ("csv", "txt") else got
                np.testing.assert_array_equal(same, values, err_msg=column)

"""ConvProblem: what it records, and that no unchecked one exists."""

import pickle

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.engine import problem as problem_module
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import DeviceError, DtypeError, ShapeError
from tests.clouds import UNSORTED

N = len(UNSORTED.coords)


@pytest.fixture
def kmap():
    return CoordCache().kernel_map(UNSORTED.coords, UNSORTED.coords, Relation.of(3))


def test_every_field(kmap):
    problem = ConvProblem.of(torch.zeros(N, 4), torch.zeros(27, 4, 6), kmap, torch.zeros(6))

    assert problem == ConvProblem("cpu", torch.float32, 27, 4, 6, N, N, kmap.n_pairs, symmetric=True)
    assert hash(problem) == hash(ConvProblem.of(torch.ones(N, 4), torch.ones(27, 4, 6), kmap))
    coarse = CoordCache().coarser(UNSORTED.coords, Relation.of(2, 2))
    strided = CoordCache().kernel_map(UNSORTED.coords, coarse, Relation.of(2, 2))
    back = ConvProblem.of(torch.zeros(len(coarse), 4), torch.zeros(8, 4, 6), strided.transposed())
    assert (back.n_in, back.n_out, back.k, back.symmetric) == (len(coarse), N, 8, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_float_dtypes(kmap, dtype):
    assert (
        ConvProblem.of(torch.zeros(N, 1, dtype=dtype), torch.zeros(27, 1, 1, dtype=dtype), kmap).dtype
        == dtype
    )


@pytest.mark.parametrize(
    ("feats", "weight", "bias", "error", "text"),
    [
        ((N,), (27, 4, 6), None, ShapeError, rf"got \({N},\) and \(27, 4, 6\)"),
        ((N, 4), (4, 6), None, ShapeError, r"got \(.*, 4\) and \(4, 6\)"),
        ((N, 3), (27, 4, 6), None, ShapeError, r"weight \(27, 4, 6\) does not take feats with 3 channels"),
        ((N, 0), (27, 0, 6), None, ShapeError, "with 0 channels"),
        ((N, 4), (27, 4, 0), None, ShapeError, r"weight \(27, 4, 0\)"),
        (
            (N + 1, 4),
            (27, 4, 6),
            None,
            ShapeError,
            f"has {N} inputs and 27 offsets, but feats has {N + 1} rows",
        ),
        ((N, 4), (8, 4, 6), None, ShapeError, "and weight 8 offsets; build the map from the coordinates"),
        ((N, 4), (27, 4, 6), (4,), ShapeError, r"bias must have shape \(6,\), got \(4,\)"),
    ],
)
def test_shapes_that_disagree(kmap, feats, weight, bias, error, text):
    bias = None if bias is None else torch.zeros(bias)
    with pytest.raises(error, match=text):
        ConvProblem.of(torch.zeros(feats), torch.zeros(weight), kmap, bias)


def test_dtypes_that_disagree(kmap):
    feats, weight = torch.zeros(N, 4), torch.zeros(27, 4, 6)
    with pytest.raises(
        DtypeError, match=r"weight is torch\.float64, feats is torch\.float32; use one dtype, or autocast"
    ):
        ConvProblem.of(feats, weight.double(), kmap)
    with pytest.raises(DtypeError, match=r"bias is torch\.float16"):
        ConvProblem.of(feats, weight, kmap, torch.zeros(6, dtype=torch.float16))
    with pytest.raises(DtypeError, match="feats must be float32, float64, float16, bfloat16, got int64"):
        ConvProblem.of(feats.long(), weight.long(), kmap)


def test_devices_that_disagree(kmap):
    with pytest.raises(DeviceError, match="feats on cpu, weight on meta"):
        ConvProblem.of(torch.zeros(N, 4), torch.zeros(27, 4, 6, device="meta"), kmap)


def test_a_problem_is_checked_once_and_found_by_all_that_was_read(kmap, monkeypatch):
    feats, weight, bias = torch.zeros(N, 4), torch.zeros(27, 4, 6), torch.zeros(6)
    known = ConvProblem.of(feats, weight, kmap, bias)
    back = ConvProblem.of(torch.zeros(N, 6), weight.transpose(1, 2), kmap, back=True)
    wide = ConvProblem.of(feats.double(), weight.double(), kmap, bias.double())
    assert (wide.dtype, back.c_in) == (torch.float64, 6)
    monkeypatch.setattr(problem_module, "_checked", lambda *args: pytest.fail("checked again"))
    assert ConvProblem.of(torch.ones(N, 4), torch.ones(27, 4, 6), kmap, torch.ones(6)) is known
    assert ConvProblem.of(torch.zeros(N, 6), weight.transpose(1, 2), kmap, back=True) is back


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"feats": torch.zeros(N, 4, dtype=torch.float64)}, DtypeError),
        ({"feats": torch.zeros(N - 1, 4)}, ShapeError),
        ({"feats": torch.zeros(N, 3)}, ShapeError),
        ({"feats": torch.zeros(N, 4, device="meta")}, DeviceError),
        ({"weight": torch.zeros(27, 4, 6, dtype=torch.float64)}, DtypeError),
        ({"weight": torch.zeros(8, 4, 6)}, ShapeError),
        ({"weight": torch.zeros(27, 4, 6, device="meta")}, DeviceError),
        ({"bias": torch.zeros(5)}, ShapeError),
        ({"bias": torch.zeros(6, dtype=torch.float64)}, DtypeError),
        ({"bias": torch.zeros(6, device="meta")}, DeviceError),
        ({"residual": torch.zeros(N, 5)}, ShapeError),
        ({"residual": torch.zeros(N, 6, dtype=torch.float64)}, DtypeError),
        ({"residual": torch.zeros(N, 6, device="meta")}, DeviceError),
    ],
)
def test_what_was_checked_hides_no_other_operand(kmap, change, error):
    good = {
        "feats": torch.zeros(N, 4),
        "weight": torch.zeros(27, 4, 6),
        "bias": torch.zeros(6),
        "residual": torch.zeros(N, 6),
    }
    ConvProblem.of(kmap=kmap, **good)
    for _ in range(2):
        with pytest.raises(error):
            ConvProblem.of(kmap=kmap, **good | change)


def test_a_copied_map_is_checked_anew(kmap, monkeypatch):
    # it may have come from another device
    feats, weight = torch.zeros(N, 4), torch.zeros(27, 4, 6)
    ConvProblem.of(feats, weight, kmap)
    other, seen = pickle.loads(pickle.dumps(kmap)), []
    checked = problem_module._checked
    monkeypatch.setattr(problem_module, "_checked", lambda *args: seen.append(1) or checked(*args))
    ConvProblem.of(feats, weight, other)
    assert seen

"""Gather-GEMM-scatter: its layout, and its passes with the kernels of a GPU."""

import pytest
import torch

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine import gather_layout
from pcsparse.engine.gather_layout import layout_of
from pcsparse.engine.gather_scatter import GatherScatter, GatherScatterConfig
from pcsparse.engine.grouping import Group, adaptive_groups
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import RangeError
from pcsparse.kernels import reference
from tests.emulation import emulate
from tests.engine.test_dataflows import maps
from tests.tolerance import tolerance

NAMES = ["submanifold", "strided-overlapping", "inverse", "offsets-without-centre", "one-voxel", "empty"]


def _groups(kmap: KernelMap, epsilon: float = 0.3, batch_below: int = 1 << 40) -> tuple[Group, ...]:
    counts = kmap.offset_counts()
    return adaptive_groups(counts, epsilon=epsilon, batch_below=batch_below, symmetric=kmap.symmetric)


@pytest.mark.parametrize("batch_below", [0, 1 << 40])
@pytest.mark.parametrize("name", NAMES)
def test_every_pair_has_a_place_of_its_own(name, batch_below):
    kmap = maps()[name]
    groups = _groups(kmap, batch_below=batch_below)
    layout = layout_of(kmap, groups)
    centre = kmap.volume // 2 if kmap.symmetric else -1
    begin, offset_at = 0, {}
    for offsets, rows in layout.runs:
        for offset in offsets:
            offset_at |= dict.fromkeys(range(begin, begin + rows), offset)
            begin += rows

    pairs, expected = kmap.pairs, {}
    for k in range(kmap.volume):
        for at in range(int(pairs.starts[k]), int(pairs.starts[k + 1])):
            if k != centre:
                expected.setdefault(int(pairs.rows_out[at]), []).append((k, int(pairs.rows_in[at])))
    (source,) = layout.gather
    for j in range(kmap.n_out):
        places = layout.places[int(layout.starts[j]) : int(layout.starts[j + 1])].tolist()
        assert [(offset_at[place], int(source[place])) for place in places] == expected.get(j, [])
    assert len(set(layout.places.tolist())) == len(layout.places) == kmap.n_pairs - kmap.n_out * (centre >= 0)


class _Reached(Exception):
    """Rows of the buffer would be numbered now."""


@pytest.mark.parametrize(("rows", "refused"), [(79_536_431, False), (79_536_432, True)])
def test_a_buffer_whose_padding_passes_32_bits_is_refused(monkeypatch, rows, refused):
    """One large offset, to which 26 others are padded: few pairs, and 2^31 - 11 or 2^31 + 16 rows."""

    def places(*_: object) -> None:
        raise _Reached

    kmap = maps()["strided-overlapping"]
    counts = [rows] + [1] * (kmap.volume - 1)
    monkeypatch.setattr(KernelMap, "offset_counts", lambda self: counts)
    monkeypatch.setattr(gather_layout, "_places", places)
    text = rf"{rows + 26} pairs at 27 offsets.* buffer of {27 * rows} rows.*epsilon"
    with pytest.raises(RangeError, match=text) if refused else pytest.raises(_Reached):
        layout_of(kmap, (Group(tuple(range(27)), rows, batched=True),))


def test_a_layout_is_made_once_a_grouping():
    kmap = KernelMap.of_groups(torch.tensor([1, 0, 1, 2]), 3)
    one, several = _groups(kmap), (Group((0,), 4, batched=False),)

    first = layout_of(kmap, one)
    assert layout_of(kmap, _groups(kmap)) is first
    other = (Group((0,), 7, batched=True),)
    assert several == one
    assert layout_of(kmap, other) is not first
    assert layout_of(kmap, other).runs == [((0,), 7)]


@pytest.mark.parametrize("emulated", [False, True], ids=["itself", "gpu-emulated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*NAMES, "groups", "groups-transposed"])
def test_passes_match_the_twin(device, monkeypatch, rng, name, dtype, emulated):
    if emulated and device.type != "cpu":
        pytest.skip("the GPU itself is there")
    kmap = KernelMap.of_groups(torch.arange(20) % 7, 9) if name.startswith("groups") else maps()[name]
    kmap = kmap.transposed() if name == "groups-transposed" else kmap
    feats = torch.randn(kmap.n_in, 3, generator=rng, dtype=torch.float64).to(dtype)
    weight = torch.randn(kmap.volume, 3, 4, generator=rng, dtype=torch.float64).to(dtype)
    grad_out = torch.randn(kmap.n_out, 4, generator=rng, dtype=torch.float64).to(dtype)
    lists = kmap.pairs.rows_in, kmap.pairs.rows_out, kmap.pairs.starts
    wide = feats.double(), weight.double(), grad_out.double()
    expected = reference.output_stationary(*wide[:2], *lists, kmap.n_out, 1)
    expected_grad = reference.output_stationary_grad_weight(wide[0], wide[2], *lists, 1)

    if emulated:
        emulate(monkeypatch)
    # a map of its own: it keeps what the kernels made of it
    header, *lists = kmap.tensors()
    kmap = KernelMap.from_tensors([header.clone(), *(part.to(device, copy=True) for part in lists)])
    feats, weight, grad_out = (part.to(device) for part in (feats, weight, grad_out))
    flow, config = GatherScatter(), GatherScatterConfig(0.5, 40)
    assert flow.refuses(ConvProblem.of(feats, weight, kmap)) is None
    out = flow.forward(feats, weight, kmap, config)
    grad = flow.grad_weight(feats, grad_out, kmap, config)

    assert out.dtype == grad.dtype == dtype
    near = tolerance(dtype, terms=3 * kmap.volume, factor=64)
    torch.testing.assert_close(out.cpu(), expected.to(dtype), **near)
    near = tolerance(dtype, terms=kmap.n_out, factor=64)
    torch.testing.assert_close(grad.cpu(), expected_grad.to(dtype), **near)

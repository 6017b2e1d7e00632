"""Fetch-on-demand: eight threads own an output row, and follow the list of its pairs. No GPU has run it yet.

Where a layer has few channels and its rows few neighbours, a tile of the implicit GEMM multiplies mostly
zeros: offsets that some row of the tile has, and depths that tensor cores want. Here every product belongs to
a pair. Weights of all offsets are staged in shared memory once a block, and blocks stay while there are rows.

Source: PCEngine (MLSys 2023) and TorchSparse++ (MICRO 2023, arXiv 2311.12862) fetch on demand by offset, and
add with atomics. Lists by output row, which need none, are ours.
"""

import functools

import torch
from torch import Tensor

from pcsparse.kernels.fetch_form import LANES, FetchForm, fetch_form
from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.row_tiles import whole

_FILE = "fetch_on_demand.cu"
# as in fetch_on_demand.cu: rows listed together, threads of a block; of a processor, as registers allow
_LISTED = 32
_THREADS, _THREADS_A_PROCESSOR = 256, 1024
# shared memory of an A100's processor that blocks may fill; of later ones it is more
_BYTES_A_PROCESSOR = 160 << 10
# where there is no GPU to ask
_FEW_PROCESSORS = 2
_NAMES = {torch.float16: "half", torch.bfloat16: "brain", torch.float32: "float"}
_WIDEST_LOAD = 16
_RELU, _FULL, _WHOLE, _SOLID = 1, 2, 4, 8


def fetch_layout(table: Tensor) -> list[Tensor]:
    k, n_out = table.shape
    tiles = -(-n_out // _LISTED)
    entries = table.new_empty((tiles, _LISTED * k, 2))
    heads = table.new_empty((tiles, _LISTED, 2))
    blocks = -(-n_out // _THREADS)
    cuda_text.launch(_FILE, "list_rows", blocks, _THREADS, table, entries, heads, k, n_out)
    return [entries, heads]


def fetch_on_demand(
    feats: Tensor,
    weight: Tensor,
    layout: list[Tensor],
    n_out: int,
    lanes: int = 0,
    threads: int = 0,
    mirrored: bool = False,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    through: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    k, c_in, c_out = weight.shape
    feats, out = feats.contiguous(), feats.new_empty((n_out, c_out))
    ending = (whole(bias), whole(residual), whole(mask), whole(through), whole(scale), whole(shift))
    step, *steps = weight.stride()
    if mirrored and k:
        weight, step = weight[-1], -step
    size = feats.element_size()
    form, threads = fetch_form(k, c_in, c_out, size, lanes), threads or _THREADS
    rows = threads // LANES
    most = _processors(feats.get_device()) * _blocks_a_processor(threads, form.shared)
    # no output channel: no block
    blocks = form.outs * min(-(-n_out // rows), max(1, most // max(form.outs, 1)))
    flags = _flags(feats, weight, out, ending[:4], form, (step, *steps))
    sizes = k | c_in << 16 | c_out << 32 | (flags | (_RELU if relu else 0)) << 48
    name = f"fetch_{_NAMES[feats.dtype]}_{form.lanes}"
    # 0 is no address
    words = [0 if part is None else part for part in ending]
    cuda_text.launch(
        _FILE, name, blocks, threads, feats, weight, *layout, out, *words, n_out, sizes, step, *steps,
        shared=form.shared,
    )  # fmt: skip
    return out


@functools.cache
def _processors(device: int) -> int:
    if device < 0:
        return _FEW_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _blocks_a_processor(threads: int, shared: int) -> int:
    return max(1, min(_THREADS_A_PROCESSOR // threads, _BYTES_A_PROCESSOR // max(shared, 1)))


def _flags(
    feats: Tensor,
    weight: Tensor,
    out: Tensor,
    ending: tuple[Tensor | None, ...],
    form: FetchForm,
    steps: tuple[int, ...],
) -> int:
    """Which loads may take several values at once."""
    size, c_out = feats.element_size(), out.shape[1]
    # output channels that are a thread's at the end
    own = form.width // LANES
    bias, residual, _, through = ending
    ends = (part.data_ptr() for part in (out, bias, residual, through) if part is not None)
    # every thread has two input channels at every step
    full = not feats.shape[1] % (2 * LANES // form.lanes) and not feats.data_ptr() % (2 * size)
    at_once = not c_out % own and not any(place % (own * size) for place in ends)
    load = _WIDEST_LOAD // size
    # output channels side by side, all of a load there or none
    solid = steps[2] == 1 and not c_out % load and not weight.data_ptr() % _WIDEST_LOAD
    solid = solid and not (steps[0] % load or steps[1] % load)
    return (_FULL if full else 0) | (_WHOLE if at_once else 0) | (_SOLID if solid else 0)

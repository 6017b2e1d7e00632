"""EIE's nine benchmark layers on this CPU, beside dense and compressed-row products of other libraries.

A head's layer runs once a frame, with all else between two runs; so the cold figure counts, for which every
run takes the next of as many copies of the weight as fill four last-level caches. Warm runs take one copy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsparse.bench.limits import Limits
from pcsparse.bench.verify import Check, check_close
from pcsparse.checks import require_extra
from pcsparse.hardware.eie_layers import EIELayer, draw_activations, draw_codes, stand_in_codebook
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.packed.eie import EIEFormat, pack_eie
from pcsparse.timing import Timing, time_in_turns

OURS, DENSE, SCIPY_CSR = "pcsparse", "torch dense", "scipy CSR (1 thread)"
TORCH_CSR, TORCH_CSR64 = "torch CSR int32", "torch CSR int64"
GOALS = {"dense": 8.0, "CSR": 3.0}
"""Geometric means to reach over the nine layers, batch 1, caches cold."""
_CACHES = 4
_DEFAULT_CACHE = 32 << 20
# small layers would need hundreds of copies to leave the caches: rotating over fewer bytes is warmer for all
_MOST_COPIES = 256


@dataclass(frozen=True)
class HeadResult:
    """A layer at one batch.

    Attributes:
        layer: sizes and densities.
        n_items: batch.
        checks: of every library's product against float64.
        n_weights: not 0.
        n_macs: weights times activations, both not 0.
        bytes_chip: of EIE's format.
        bytes_layout: of what our kernel reads.
        bytes_csr: of float32 values, int32 columns and row starts.
        bytes_read: what a product must read and write at least: chunks, of active columns alone where zeros
            are skipped, input, output.
        skips_zeros: whether they are: the faster of the two layouts.
        cold: by library; those that are wrong are missing.
        warm: the same.
    """

    layer: EIELayer
    n_items: int
    checks: tuple[Check, ...]
    n_weights: int
    n_macs: int
    bytes_chip: int
    bytes_layout: int
    bytes_csr: int
    bytes_read: int
    skips_zeros: bool
    cold: Mapping[str, Timing]
    warm: Mapping[str, Timing]

    @property
    def passed(self) -> bool:
        """Whether all products are right."""
        return all(check.passed for check in self.checks)

    def ratio(self, *names: str, warm: bool = False) -> float:
        """The fastest of these libraries over ours, medians."""
        times = self.warm if warm else self.cold
        return min(times[name].median for name in names) / times[OURS].median

    def floor(self, limits: Limits) -> float:
        """Seconds that reading and writing every needed byte once takes."""
        return self.bytes_read / limits.bandwidth


def cache_bytes() -> int:
    """Of the last-level cache, as Linux tells; 32 MiB where it does not."""
    found = [
        int(path.read_text().strip().removesuffix("K")) << 10
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if path.read_text().strip().endswith("K")
    ]
    return max(found, default=_DEFAULT_CACHE)


def run_head_layer(
    layer: EIELayer, n_items: int, runs: int, *, scale: int = 1, cache: int | None = None
) -> HeadResult:
    """Check and time one layer, with weights and activations drawn at the paper's densities.

    Args:
        layer: which.
        n_items: batch.
        runs: of each library, cold and warm.
        scale: divides both sizes, for tests.
        cache: bytes of the last-level cache; asked for if None.

    Raises:
        UnsupportedError: scipy is not installed.
    """
    sparse: Any = require_extra("scipy.sparse", "dev")
    n_in, n_out = layer.n_in // scale, layer.n_out // scale
    small = replace(layer, n_in=n_in, n_out=n_out)
    codes, codebook = draw_codes(small, seed=n_in + n_out), stand_in_codebook()
    x = torch.stack([draw_activations(small, seed=item) for item in range(n_items)])
    matrix = pack_eie(codes, codebook, EIEFormat())
    dense = matrix.to_dense()
    rows = sparse.csr_matrix(dense.numpy())
    ours = EIELinear.from_matrix(matrix)
    # as `sparsify_heads` does: with warm caches, before anything else is measured
    ours.choose_layout(x)
    copies = _Copies((cache or cache_bytes()) * _CACHES)
    made: dict[str, Callable[[bool], Callable[[], Any]]] = {
        OURS: lambda one: _ours(ours, x, copies, one),
        DENSE: lambda one: _dense(dense, x, copies, one),
        TORCH_CSR: lambda one: _torch_csr(rows, x, copies, one, np.int32),
        TORCH_CSR64: lambda one: _torch_csr(rows, x, copies, one, np.int64),
        SCIPY_CSR: lambda one: _scipy_csr(rows, x, copies, one),
    }
    expected = x.double() @ dense.double().T
    checks = []
    with torch.no_grad():
        for name, make in made.items():
            found = torch.as_tensor(make(True)())
            # the others give a column an item
            found = found if name == OURS else found.reshape(n_out, n_items).T
            checks.append(check_close(name, found, expected, float(n_in)))
        right = [check.what for check in checks if check.passed]
        # the run before each leaves threads awake and other copies in the caches
        cold = time_in_turns({name: made[name](False) for name in right}, runs=runs, settle=1)
        warm = time_in_turns({name: made[name](True) for name in right}, runs=runs, settle=1)
    active = x != 0
    per_column = (codes != 0).sum(dim=0)
    layout = ours.layout(torch.device("cpu"))
    n_weights = int(per_column.sum())
    share = float(per_column[active.any(dim=0)].sum()) / max(n_weights, 1) if ours.skips_zeros else 1.0
    return HeadResult(
        layer,
        n_items,
        tuple(checks),
        n_weights,
        int((active * per_column).sum()),
        sum(matrix.stored_bits().values()) // 8,
        layout.n_bytes,
        rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes,
        int(share * layout.tensors[0].numel()) + 4 * n_items * (n_in + n_out),
        ours.skips_zeros,
        cold,
        warm,
    )


@dataclass(frozen=True)
class _Copies:
    """How many copies of so many bytes fill the caches often enough."""

    wanted: int

    def of(self, n_bytes: int, one: bool) -> range:
        return range(1 if one else min(_MOST_COPIES, self.wanted // max(n_bytes, 1) + 1))


def _ours(layer: EIELinear, x: Tensor, copies: _Copies, one: bool) -> Callable[[], Tensor]:
    def copied() -> EIELinear:
        return EIELinear.from_matrix(layer.matrix, skips_zeros=layer.skips_zeros)

    layers = [copied() for _ in copies.of(layer.layout(x.device).n_bytes, one)]
    for copy in layers:
        copy.layout(x.device)
    made = cycle(layers)
    return lambda: next(made)(x)


def _dense(weight: Tensor, x: Tensor, copies: _Copies, one: bool) -> Callable[[], Tensor]:
    made = cycle([weight.clone() for _ in copies.of(4 * weight.numel(), one)])
    if len(x) == 1:
        return lambda: torch.mv(next(made), x[0])
    return lambda: next(made) @ x.T


def _torch_csr(rows: Any, x: Tensor, copies: _Copies, one: bool, index: type) -> Callable[[], Tensor]:
    def copy() -> Tensor:
        # 64-bit indices are what `to_sparse_csr` makes, and what is converted in every call
        starts, columns = (torch.from_numpy(a.astype(index)) for a in (rows.indptr, rows.indices))
        return torch.sparse_csr_tensor(starts, columns, torch.from_numpy(rows.data.copy()), rows.shape)

    made = cycle([copy() for _ in copies.of(8 * rows.nnz, one)])
    given = x[0] if len(x) == 1 else x.T.contiguous()
    return lambda: next(made) @ given


def _scipy_csr(rows: Any, x: Tensor, copies: _Copies, one: bool) -> Callable[[], Any]:
    made = cycle([rows.copy() for _ in copies.of(8 * rows.nnz, one)])
    given = x[0].numpy() if len(x) == 1 else np.ascontiguousarray(x.T.numpy())
    return lambda: next(made) @ given


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers."""
    return prod(values) ** (1 / len(values))

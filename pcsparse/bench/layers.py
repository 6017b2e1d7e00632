"""Single convolutions: verified against the twins, then timed beside the peers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcsparse.bench.cases import SETTLE, ConvCase
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.bench.limits import Work, conv_work, map_work
from pcsparse.bench.ours import Ours
from pcsparse.bench.outcome import Candidate, Result, verified_then_timed
from pcsparse.bench.scene import Scene, draw, twin_map
from pcsparse.bench.verify import check_close
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.keys import pack
from pcsparse.errors import UnsupportedError
from pcsparse.kernels import reference


def run_conv_case(
    case: ConvCase, scene: Scene, peers: Sequence[Library], runs: int, *, settle: int = SETTLE
) -> Result:
    """A convolution: output, and gradients where the case has them, against the float64 twin.

    Every library runs its own module on its own tensor, with its map ready unless the case includes it.
    `settle` is that of `timing.time_in_turns`.
    """
    data = _Data.of(case, scene)
    candidates = [_conv_candidate(library, case, scene, data) for library in (Ours(), *peers)]
    k, n_pairs = case.relation.volume, data.pairs.rows_in.numel()
    work = conv_work(data.n_in, data.n_out, n_pairs, k, case.c_in, case.c_out, case.backward, case.dtype)
    if case.with_map:
        # the pairs are in the work of the convolution already
        made = map_work(len(scene.coords), data.n_out, 0)
        work = Work(work.operations, work.bytes + made.bytes, work.narrow)
    goal = None if case.goal is None else (case.goal, float(n_pairs))
    return verified_then_timed(case.name, candidates, (work,), runs, goal, settle=settle)


@dataclass(frozen=True, eq=False)
class _Data:
    """What a case computes with, rows in the order of keys, and what must come out."""

    feats: Tensor
    weight: Tensor
    grad_out: Tensor
    coords_in: Tensor
    coords_out: Tensor
    pairs: Pairs
    expected: list[tuple[str, Tensor, float]]

    @property
    def n_in(self) -> int:
        return len(self.coords_in)

    @property
    def n_out(self) -> int:
        return len(self.coords_out)

    @staticmethod
    def of(case: ConvCase, scene: Scene) -> "_Data":
        fine, (coarse, pairs) = scene.coords, twin_map(scene.coords, case.relation)
        if case.layer == "inverse":
            fine, coarse = coarse, fine
            pairs = Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)
        k = case.relation.volume
        feats = draw(len(fine), case.c_in).to(case.dtype)
        weight = draw(k, case.c_in, case.c_out, scale=(k * case.c_in) ** -0.5).to(case.dtype)
        grad_out = draw(len(coarse), case.c_out).to(case.dtype)
        expected = _twin(case, feats, weight, grad_out, pairs, len(coarse))
        return _Data(feats, weight, grad_out, fine, coarse, pairs, expected)


def _twin(
    case: ConvCase, feats: Tensor, weight: Tensor, grad_out: Tensor, pairs: Pairs, n_out: int
) -> list[tuple[str, Tensor, float]]:
    """What is computed, its float64 values by the twins on the twins' own map, and products a value."""
    feats, weight = feats.double().requires_grad_(), weight.double().requires_grad_()
    with torch.set_grad_enabled(case.backward):
        out = reference.output_stationary(
            feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, n_out, 0
        )
    k = weight.shape[0]
    found = [("out", out.detach(), float(k * case.c_in))]
    if case.backward:
        # autograd through the twin's forward: independent of every hand-written gradient
        grad_feats, grad_weight = torch.autograd.grad(out, (feats, weight), grad_out.double())
        longest = float(pairs.starts.diff().max()) if k else 0.0
        found += [
            ("grad_feats", grad_feats, float(k * case.c_out)),
            ("grad_weight", grad_weight, longest),
        ]
    return found


def _conv_candidate(library: Library, case: ConvCase, scene: Scene, data: _Data) -> Candidate:
    refusal = library.refuses(backward=case.backward, dtype=case.dtype)
    if refusal is None and case.layer == "strided" and not case.with_map and not library.keeps_strided_maps:
        refusal = "a strided layer refuses a map that is there"
    if refusal is not None:
        return Candidate(library.name, None, refusal=refusal)
    kernel, stride = case.relation.kernel_size[0], case.relation.stride[0]
    conv = library.conv(case.layer, kernel, stride, case.c_in, case.c_out, 0).to(case.dtype)
    conv.load(data.weight)
    with torch.no_grad():
        x, order_in, order_out = library.at_its_threads(lambda: _input(library, case, scene, data, conv))()
    run, read = _runner(library, case, scene, data, conv, x, order_out)
    run = library.at_its_threads(run)
    found = read(run())
    # rows of the library in the order of keys
    rows = {"out": order_out, "grad_feats": order_in}
    checks = tuple(
        check_close(what, actual[rows[what]] if what in rows else actual, wanted, terms, case.dtype)
        for actual, (what, wanted, terms) in zip(found, data.expected, strict=True)
    )
    return Candidate(library.name, run, checks)


def _input(
    library: Library, case: ConvCase, scene: Scene, data: _Data, conv: LibraryConv
) -> tuple[Any, Tensor, Tensor]:
    """The input with all maps ready; which rows of input and output come first, second, ... by key."""
    kernel, stride = case.relation.kernel_size[0], case.relation.stride[0]
    ones = torch.ones(len(scene.coords), 1, dtype=case.dtype)
    x = library.tensor(library.geometry(scene.coords), ones)
    stride_in, stride_out = (stride, 1) if case.layer == "inverse" else (1, stride)
    if case.layer == "inverse":
        x = library.conv("strided", kernel, stride, 1, 1, 0).to(case.dtype)(x)
    order_in = torch.argsort(pack(library.coords(x, stride_in)))
    feats = torch.empty_like(data.feats)
    feats[order_in] = data.feats
    x = library.replace(x, feats)
    y = conv(x)
    library.keep_maps(x, y)
    return x, order_in, torch.argsort(pack(library.coords(y, stride_out)))


def _runner(
    library: Library,
    case: ConvCase,
    scene: Scene,
    data: _Data,
    conv: LibraryConv,
    x: Any,
    order_out: Tensor,
) -> tuple[Callable[[], Any], Callable[[Any], tuple[Tensor, ...]]]:
    """What is timed, and how to read its results afterwards."""
    if not case.backward:
        geometry = library.geometry(scene.coords)

        def forward() -> Any:
            with torch.no_grad():
                return conv(library.tensor(geometry, data.feats) if case.with_map else x)

        return forward, lambda y: (library.feats(y),)
    grad_out = torch.empty_like(data.grad_out)
    grad_out[order_out] = data.grad_out
    feats = library.feats(x).detach().requires_grad_()
    x = library.replace(x, feats)

    def both() -> Any:
        feats.grad = None
        conv.zero_grad(set_to_none=True)
        y = conv(x)
        library.feats(y).backward(grad_out)
        return y

    def read(y: Any) -> tuple[Tensor, ...]:
        if feats.grad is None:
            raise UnsupportedError(f"{library.name} gave no gradient of the features")
        return library.feats(y).detach(), feats.grad, conv.grad()

    return both, read

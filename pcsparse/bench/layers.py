"""Kernel maps and single convolutions: verified against the twins, then timed beside the peer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.bench.cases import ConvCase, MapCase
from pcsparse.bench.limits import Work, conv_work, map_work
from pcsparse.bench.peer import Convolve, PlainTorch, plain_strided_map, plain_submanifold_map
from pcsparse.bench.scene import Scene, build_map, draw, twin_map
from pcsparse.bench.verify import Check, check_close, check_equal
from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.kernels import reference
from pcsparse.ops.conv import sparse_conv
from pcsparse.timing import Timing, time_in_turns

OURS, PEER = "pcsparse", "plain torch"


@dataclass(frozen=True)
class Result:
    """One case: the checks, and timings only if all of them passed.

    Attributes:
        case: its name.
        checks: agreement of both candidates with the twin.
        ours: seconds, None where a check failed.
        peer: seconds of plain torch, None where a check failed or the peer does not do it.
        works: what cannot be done without, one piece after the other; empty where no floor is known.
    """

    case: str
    checks: tuple[Check, ...]
    ours: Timing | None
    peer: Timing | None
    works: tuple[Work, ...]

    @property
    def passed(self) -> bool:
        """Whether everything agreed with the twin."""
        return all(check.passed for check in self.checks)


def verified_then_timed(
    case: str,
    checks: tuple[Check, ...],
    candidates: Mapping[str, Callable[[], object]],
    works: tuple[Work, ...],
    runs: int,
) -> Result:
    """Time the candidates in turns if all checks passed; else no timing exists."""
    if not all(check.passed for check in checks):
        return Result(case, checks, None, None, works)
    timings = time_in_turns(candidates, runs=runs)
    return Result(case, checks, timings[OURS], timings.get(PEER), works)


def run_map_case(case: MapCase, scene: Scene, runs: int) -> Result:
    """A kernel map, end to end from int coordinates."""
    coords, relation = scene.coords, case.relation
    coarse, expected = twin_map(coords, relation)
    candidates: dict[str, Callable[[], tuple[Tensor, Pairs]]] = {OURS: lambda: _our_map(scene, case)}
    if relation.is_symmetric:
        candidates[PEER] = lambda: (coords, plain_submanifold_map(coords, relation))
    elif relation.is_partition:
        candidates[PEER] = lambda: plain_strided_map(coords, relation)
    checks = []
    for name, build in candidates.items():
        made, pairs = build()
        checks.append(check_equal(f"{name}: coordinates", made, coarse))
        for field in ("rows_in", "rows_out", "starts"):
            actual, wanted = getattr(pairs, field), getattr(expected, field)
            checks.append(check_equal(f"{name}: {field}", actual, wanted))
    n_made = 0 if relation.is_submanifold else len(coarse)
    work = map_work(len(coords), n_made, expected.rows_in.numel())
    return verified_then_timed(case.name, tuple(checks), candidates, (work,), runs)


def _our_map(scene: Scene, case: MapCase) -> tuple[Tensor, Pairs]:
    coarse, kmap = build_map(scene.coords, case.relation)
    return coarse, kmap.pairs


def run_conv_case(case: ConvCase, scene: Scene, runs: int) -> Result:
    """A convolution: output, and gradients where the case has them, against the float64 twin."""
    kmap = _directed(scene.kernel_map(case.relation), case)
    feats = draw(kmap.n_in, case.c_in)
    weight = draw(kmap.volume, case.c_in, case.c_out, scale=(kmap.volume * case.c_in) ** -0.5)
    grad_out = draw(kmap.n_out, case.c_out)
    plain = PlainTorch()
    candidates = {
        OURS: lambda: _run(case, scene, sparse_conv, kmap, feats, weight, grad_out),
        PEER: lambda: _run_plain(case, scene, plain, kmap, feats, weight, grad_out),
    }
    expected = _twin(case, scene, feats, weight, grad_out)
    checks = tuple(
        check_close(f"{name}: {what}", actual, wanted, terms)
        for name, run in candidates.items()
        for actual, (what, wanted, terms) in zip(run(), expected, strict=True)
    )
    work = conv_work(kmap.n_in, kmap.n_out, kmap.n_pairs, kmap.volume, case.c_in, case.c_out, case.backward)
    if case.with_map:
        # the pairs are in the work of the convolution already
        made = map_work(len(scene.coords), kmap.n_out, 0)
        work = Work(work.operations, work.bytes + made.bytes)
    return verified_then_timed(case.name, checks, candidates, (work,), runs)


def _directed(kmap: KernelMap, case: ConvCase) -> KernelMap:
    return kmap.transposed() if case.layer == "inverse" else kmap


def _run(
    case: ConvCase,
    scene: Scene,
    convolve: Convolve,
    kmap: KernelMap,
    feats: Tensor,
    weight: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, ...]:
    if case.with_map:
        kmap = _directed(build_map(scene.coords, case.relation)[1], case)
    return _convolved(case, convolve, kmap, feats, weight, grad_out)


def _run_plain(
    case: ConvCase,
    scene: Scene,
    plain: PlainTorch,
    kmap: KernelMap,
    feats: Tensor,
    weight: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, ...]:
    if case.with_map:
        coarse, pairs = plain_strided_map(scene.coords, case.relation)
        kmap = _directed(KernelMap(case.relation, len(scene.coords), len(coarse), pairs), case)
    return _convolved(case, plain, kmap, feats, weight, grad_out)


def _convolved(
    case: ConvCase, convolve: Convolve, kmap: KernelMap, feats: Tensor, weight: Tensor, grad_out: Tensor
) -> tuple[Tensor, ...]:
    if not case.backward:
        with torch.no_grad():
            return (convolve(feats, weight, kmap),)
    feats, weight = feats.detach().requires_grad_(), weight.detach().requires_grad_()
    out = convolve(feats, weight, kmap)
    grads = torch.autograd.grad(out, (feats, weight), grad_out)
    return (out.detach(), *grads)


def _twin(
    case: ConvCase, scene: Scene, feats: Tensor, weight: Tensor, grad_out: Tensor
) -> list[tuple[str, Tensor, float]]:
    """What is computed, its float64 values by the twins on the twins' own map, and products a value."""
    coarse, pairs = twin_map(scene.coords, case.relation)
    rows_in, rows_out, n_out = pairs.rows_in, pairs.rows_out, len(coarse)
    if case.layer == "inverse":
        rows_in, rows_out, n_out = rows_out, rows_in, len(scene.coords)
    feats, weight = feats.double().requires_grad_(), weight.double().requires_grad_()
    with torch.set_grad_enabled(case.backward):
        out = reference.output_stationary(feats, weight, rows_in, rows_out, pairs.starts, n_out, 0)
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

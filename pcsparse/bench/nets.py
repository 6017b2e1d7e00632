"""Whole networks: verified against the twin in float64, then timed beside the same in other libraries."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pcsparse.nn
from pcsparse.bench.cases import NetCase
from pcsparse.bench.library import Library
from pcsparse.bench.map_library import twin
from pcsparse.bench.ours import OURS
from pcsparse.bench.outcome import Candidate, Outcome, Result, verified_then_timed
from pcsparse.bench.scene import Scene
from pcsparse.bench.unet import LibraryUNet, network_work
from pcsparse.bench.verify import Check, check_close, check_norm, check_scale
from pcsparse.models import MinkUNet
from pcsparse.nn import BatchNorm, prepare

MAPS = " (maps alone)"
_SEED = 20231
_BLOCK = 32
# rounding moves a few ReLU inputs across zero, and in training batch norm tells all rows: float32 gradients
# differ from float64 ones by up to 0.3 %, plain torch's as much as the package's; a wrong kernel's by all
_GRADIENT_LIMIT = 0.02
# length of the difference: every layer rounds to 8 bits, and the gradients of an untrained network nearly
# cancel: 0.3 to 0.8 of a right one in either library; none at all is 1, an unrelated one 1.4. Single layers
# are checked a hundred times more closely
_BF16_LOGITS, _BF16_LOSS, _BF16_GRADIENT = 0.08, 0.02, 0.95
# half of a right gradient passes those 0.95, so its length along the float64 one is checked too: right ones
# have 0.77 to 1.15 (either library, widths 0.125 to 1, miniature and real sweep), half and double lie beyond
_BF16_SCALE = 0.35


def run_net_case(case: NetCase, scene: Scene, peers: Sequence[Library], runs: int) -> tuple[Result, ...]:
    """A forward pass or a training step from coordinates to logits or updated weights, maps included.

    Every library builds its own maps. A float32 forward case of plain modules gives a second result, the maps
    alone.
    """
    model = calibrated(case, scene)
    works = network_work(case.spec, scene.coords, training=case.training, dtype=case.dtype)
    goal = None if case.goal is None else (case.goal, sum(work.operations for work in works))
    if case.form == "fused" and not hasattr(pcsparse.nn, "fuse"):
        return (Result(case.name, Outcome(OURS, (), None, "pcsparse.nn has no fuse()"), works=works),)
    if case.training:
        return (verified_then_timed(case.name, _training(case, scene, peers, model), works, runs, goal),)
    candidates = _inference(case, scene, peers, model)
    result = verified_then_timed(case.name, candidates, works, runs, goal)
    if case.form == "fused" or case.dtype != torch.float32:
        return (result,)
    maps = Candidate(OURS, lambda: prepare(model, scene.fresh()), candidates[0].checks)
    return result, verified_then_timed(case.name + MAPS, [maps], (), runs)


def calibrated(case: NetCase, scene: Scene) -> MinkUNet:
    """A seeded network whose batch norms hold the statistics of this cloud.

    With fresh ones the activations would fade from layer to layer, and the logits would be the classifier's
    bias whatever the convolutions did: a check that cannot fail.
    """
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model = MinkUNet(case.spec)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(scene.fresh())
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model.train(case.training)


def _in(library: Library, case: NetCase, model: MinkUNet) -> LibraryUNet:
    return LibraryUNet(case.spec, library).load(model.state_dict()).train(case.training)


def _terms(model: nn.Module) -> float:
    """Products behind a logit along the deepest path: rounding errors add up layer by layer."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    return float(sum(weight[..., 0].numel() if weight.dim() == 3 else weight.shape[1] for weight in weights))


def _inference(case: NetCase, scene: Scene, peers: Sequence[Library], model: MinkUNet) -> list[Candidate]:
    reference = twin()
    with torch.no_grad():
        oracle = _in(reference, case, model).double()
        given = reference.tensor(scene.coords, scene.tensor.feats.double())
        expected = reference.feats(oracle(given))

    def check(actual: Tensor) -> Check:
        if case.dtype == torch.float32:
            return check_close("logits", actual, expected, _terms(model))
        return check_norm("logits", actual, expected, _BF16_LOGITS)

    fuse: Callable[[MinkUNet], Any] = getattr(pcsparse.nn, "fuse", lambda net: net)
    net = (fuse(model) if case.form == "fused" else copy.deepcopy(model)).to(case.dtype)
    feats = scene.tensor.feats.to(case.dtype)

    def ours() -> Tensor:
        with torch.no_grad():
            found: Tensor = net(scene.fresh(feats)).feats
            return found

    candidates = [Candidate(OURS, ours, (check(ours()),))]
    for library in peers:
        refusal = library.refuses(backward=False, dtype=case.dtype)
        if refusal is not None:
            candidates.append(Candidate(library.name, None, refusal=refusal))
            continue
        run = library.at_its_threads(
            _peer_forward(library, _in(library, case, model).to(case.dtype), scene, feats)
        )
        candidates.append(Candidate(library.name, run, (check(run()),)))
    return candidates


def _peer_forward(library: Library, net: nn.Module, scene: Scene, feats: Tensor) -> Callable[[], Tensor]:
    geometry = library.geometry(scene.coords)

    def run() -> Tensor:
        with torch.no_grad():
            return library.feats(net(library.tensor(geometry, feats)))

    return run


def targets(scene: Scene, n_classes: int) -> Tensor:
    """Labels (n,) int64 that neighbours share, as in a street: those of single voxels would only cancel."""
    blocks = torch.div(scene.coords[:, 1:].long(), _BLOCK, rounding_mode="floor")
    return (blocks * torch.tensor([1, 3, 7])).sum(dim=1) % n_classes


def training_step(
    net: nn.Module, logits: Callable[[], Tensor], labels: Tensor, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """Forward, loss, backward, SGD; bfloat16 by autocast.

    Args:
        net: whose parameters are updated.
        logits: one forward pass, maps included.
        labels: (n,) int64.
        dtype: float32 or bfloat16.

    Returns:
        One step, which returns its loss.
    """
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)

    def run() -> Tensor:
        optimiser.zero_grad()
        loss = _loss(logits, labels, dtype)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return run


def _loss(logits: Callable[[], Tensor], labels: Tensor, dtype: torch.dtype) -> Tensor:
    narrow: AbstractContextManager[Any] = nullcontext()
    if dtype == torch.bfloat16:
        narrow = torch.autocast("cpu", torch.bfloat16)
    with narrow:
        found = logits()
    return functional.cross_entropy(found.to(torch.promote_types(found.dtype, torch.float32)), labels)


def _training(case: NetCase, scene: Scene, peers: Sequence[Library], model: MinkUNet) -> list[Candidate]:
    labels = targets(scene, case.spec.n_classes)
    names = [name for name, parameter in model.named_parameters() if parameter.dim() == 3]

    def forward_in(library: Library, net: nn.Module, dtype: torch.dtype) -> Callable[[], Tensor]:
        geometry, feats = library.geometry(scene.coords), scene.tensor.feats.to(dtype)
        return lambda: library.feats(net(library.tensor(geometry, feats)))

    oracle = _in(twin(), case, model).double()
    expected_loss = _loss(forward_in(oracle.library, oracle, torch.float64), labels, torch.float64)
    expected_loss.backward()
    expected = oracle.gradients()
    del oracle

    def checks(net: nn.Module, logits: Callable[[], Tensor], gradients: Callable[[], Any]) -> Iterator[Check]:
        state = copy.deepcopy(net.state_dict())
        loss = _loss(logits, labels, case.dtype)
        loss.backward()
        narrow = case.dtype == torch.bfloat16
        if narrow:
            yield check_norm("loss", loss.detach(), expected_loss.detach(), _BF16_LOSS)
        else:
            yield check_close("loss", loss.detach(), expected_loss.detach(), _terms(model))
        found, limit = gradients(), _BF16_GRADIENT if narrow else _GRADIENT_LIMIT
        for name in names:
            yield check_norm(f"gradient of {name}", found[name], expected[name], limit)
            if narrow:
                yield check_scale(f"scale of gradient of {name}", found[name], expected[name], _BF16_SCALE)
        net.zero_grad()
        net.load_state_dict(state)

    def ours() -> Tensor:
        found: Tensor = model(scene.fresh()).feats
        return found

    def our_gradients() -> dict[str, Tensor]:
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    found = tuple(checks(model, ours, our_gradients))
    candidates = [Candidate(OURS, training_step(model, ours, labels, case.dtype), found)]
    for library in peers:
        refusal = library.refuses(backward=True, dtype=case.dtype)
        if refusal is not None:
            candidates.append(Candidate(library.name, None, refusal=refusal))
            continue
        net = _in(library, case, model)
        logits = forward_in(library, net, torch.float32)
        verify = library.at_its_threads(partial(tuple, checks(net, logits, net.gradients)))
        run = library.at_its_threads(training_step(net, logits, labels, case.dtype))
        candidates.append(Candidate(library.name, run, verify()))
    return candidates

"""Whole networks: verified against the twin in float64, then timed beside the same network in plain torch."""

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcsparse.bench.cases import NetCase
from pcsparse.bench.layers import OURS, PEER, Result, verified_then_timed
from pcsparse.bench.peer import PlainTorch
from pcsparse.bench.scene import Scene
from pcsparse.bench.swap import network_work, swapped, twin_conv
from pcsparse.bench.verify import Check, check_close, check_norm
from pcsparse.models import MinkUNet
from pcsparse.nn import BatchNorm, prepare

MAPS = " (maps alone)"
_SEED = 20231
# rounding moves a few ReLU inputs across zero, and in training batch norm tells all rows: float32 gradients
# differ from float64 ones by up to 0.3 %, plain torch's as much as the package's; a wrong kernel's by all
_GRADIENT_LIMIT = 0.02


def run_net_case(case: NetCase, scene: Scene, runs: int) -> tuple[Result, ...]:
    """A forward pass or a training step from coordinates to logits or updated weights, maps included.

    The peer runs on the package's maps, so the ratio counts convolutions only. A forward case gives a second
    result, the maps alone.
    """
    model = _calibrated(case, scene)
    models = {OURS: model, PEER: swapped(model, PlainTorch())}
    twin = swapped(model, twin_conv).double()
    works = network_work(model, scene.fresh(), training=case.training)
    if case.training:
        checks = tuple(_training_checks(models, twin, scene))
        steps = {name: _step(net, scene) for name, net in models.items()}
        return (verified_then_timed(case.name, checks, steps, works, runs),)
    with torch.no_grad():
        expected = twin(scene.fresh().to(torch.float64)).feats
        terms = _terms(model)
        checks = tuple(
            check_close(f"{name}: logits", net(scene.fresh()).feats, expected, terms)
            for name, net in models.items()
        )
    forward = {name: _forward(net, scene) for name, net in models.items()}
    result = verified_then_timed(case.name, checks, forward, works, runs)
    maps = {OURS: lambda: prepare(model, scene.fresh())}
    return result, verified_then_timed(case.name + MAPS, checks, maps, (), runs)


def _calibrated(case: NetCase, scene: Scene) -> MinkUNet:
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


def _terms(model: nn.Module) -> float:
    """Products behind a logit along the deepest path: rounding errors add up layer by layer."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    return float(sum(weight[..., 0].numel() if weight.dim() == 3 else weight.shape[1] for weight in weights))


def _forward(net: nn.Module, scene: Scene) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return net(scene.fresh())

    return run


def _targets(scene: Scene, n_classes: int) -> Tensor:
    # any labelling that depends on the coordinates will do
    return scene.coords[:, 1:].long().abs().sum(dim=1) % n_classes


def _loss(net: nn.Module, scene: Scene, dtype: torch.dtype = torch.float32) -> Tensor:
    logits: Tensor = net(scene.fresh().to(dtype)).feats
    return functional.cross_entropy(logits, _targets(scene, logits.shape[1]))


def _step(net: nn.Module, scene: Scene) -> Callable[[], object]:
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)

    def run() -> object:
        optimiser.zero_grad()
        loss = _loss(net, scene)
        loss.backward()
        optimiser.step()
        return loss

    return run


def _training_checks(models: Mapping[str, nn.Module], twin: nn.Module, scene: Scene) -> Iterator[Check]:
    """Loss, and the gradient of every convolution's weights."""
    loss, expected = _loss_and_gradients(twin, scene, torch.float64)
    for name, net in models.items():
        own_loss, found = _loss_and_gradients(net, scene, torch.float32)
        yield check_close(f"{name}: loss", own_loss, loss, _terms(net))
        for i, (grad, wanted) in enumerate(zip(found, expected, strict=True)):
            yield check_norm(f"{name}: gradient of convolution {i}", grad, wanted, _GRADIENT_LIMIT)


def _loss_and_gradients(net: nn.Module, scene: Scene, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """The network stays as it was, its running statistics too."""
    state = copy.deepcopy(net.state_dict())
    weights = [parameter for parameter in net.parameters() if parameter.dim() == 3]
    loss = _loss(net, scene, dtype)
    gradients = torch.autograd.grad(loss, weights)
    net.load_state_dict(state)
    return loss.detach(), list(gradients)

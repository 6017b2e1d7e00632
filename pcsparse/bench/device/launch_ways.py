"""What the host spends on a training step, its Triton kernels started by the driver's entry or by Triton."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pcsparse.bench.device.clock import Times, time_candidates
from pcsparse.bench.device.scene import DeviceScene
from pcsparse.errors import UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec

LaunchWay = Literal["driver", "Triton's launcher"]
_N_CLASSES = 19


class LaunchWays:
    """Switches between the two ways; the forms of each are kept, so that a switch compiles nothing anew.

    Args:
        launch: the module of the launchers.
        launchers: those of the hot path.
    """

    def __init__(self, launch: Any, launchers: list[Any]) -> None:
        self._launch, self._launchers = launch, launchers
        self._forms: dict[LaunchWay, list[dict[Any, Any]]] = {
            "driver": [one._forms for one in launchers],
            "Triton's launcher": [{} for _ in launchers],
        }

    @contextmanager
    def taken(self, way: LaunchWay) -> Iterator[None]:
        """All launches of the block go one way, as far as they can."""
        asked = self._launch.is_direct
        before = [one._forms for one in self._launchers]
        if way != "driver":
            self._launch.is_direct = _never
        for one, forms in zip(self._launchers, self._forms[way], strict=True):
            one._forms = forms
        try:
            yield
        finally:
            self._launch.is_direct = asked
            for one, forms in zip(self._launchers, before, strict=True):
                one._forms = forms


def _never(*_: object) -> bool:
    return False


def gpu_launch_ways() -> LaunchWays:
    """Of all launchers of the GPU's kernels."""
    import importlib
    import pkgutil

    from pcsparse.kernels import gpu

    launch = importlib.import_module("pcsparse.kernels.gpu.launch")
    found: dict[int, Any] = {}
    for module in pkgutil.iter_modules(gpu.__path__):
        names = vars(importlib.import_module(f"pcsparse.kernels.gpu.{module.name}"))
        found.update((id(value), value) for value in names.values() if isinstance(value, launch.Launcher))
    return LaunchWays(launch, list(found.values()))


def eager_step(scene: DeviceScene, device: torch.device, width: float = 1.0) -> Callable[[], Tensor]:
    """A training step of MinkUNet-18 from coordinates on, in float16 where the device has it; its loss."""
    torch.manual_seed(0)
    model = MinkUNet(MinkUNetSpec.minkunet18(scene.feats.shape[1], _N_CLASSES, width)).to(device).train()
    targets = torch.arange(len(scene.coords), device=device) % _N_CLASSES
    # statistics go on from step to step, and are no part of the loss of one
    precision = torch.autocast(device.type, torch.float16, enabled=device.type == "cuda")

    def run() -> Tensor:
        model.zero_grad(set_to_none=True)
        with precision:
            out = model(scene.fresh()).feats
        loss = functional.cross_entropy(out.float(), targets)
        loss.backward()
        return loss.detach()

    return run


def time_launch_ways(
    ways: LaunchWays, run: Callable[[], Tensor], device: torch.device, *, runs: int, seconds: float
) -> dict[LaunchWay, Times]:
    """Time a step both ways, in turns.

    Args:
        ways: to switch.
        run: one step, that gives the same loss each time.
        device: where it runs.
        runs: rounds at most.
        seconds: after which no new round starts.

    Raises:
        UnsupportedError: the losses differ.
    """
    both: tuple[LaunchWay, ...] = ("driver", "Triton's launcher")

    def step(way: LaunchWay) -> Tensor:
        with ways.taken(way):
            return run()

    losses = {way: float(step(way)) for way in both}
    if len(set(losses.values())) > 1:
        raise UnsupportedError(f"the loss of a step depends on how kernels are started: {losses}; not timed")
    candidates: dict[str, Callable[[], object]] = {way: partial(step, way) for way in both}
    times = time_candidates(candidates, device, runs=runs, seconds=seconds)
    return {way: times[way] for way in both}

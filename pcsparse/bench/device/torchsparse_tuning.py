"""Which settings TorchSparse++ runs with: its own tuner's, or the fastest where that one cannot look.

Networks, and layers that make their maps, go through `torchsparse.tune` with its own range: implicit GEMM
with rows unsorted, or sorted with 1 to 4 splits, and 1 to 4 splits backward. It times maps, too, so a layer
whose map is ready would get the cheapest map; that one takes the fastest of the same settings by the
device's clock.

Source: mit-han-lab/torchsparse@385f5ce, torchsparse/utils/tune.py, nn/functional/conv/conv_config.py.
"""

import copy
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.device.clock import time_candidates

SAMPLES = 2
"""Inputs that its tuner runs every setting on, after ten runs to warm up."""
_SPLITS = (1, 2, 3, 4)
_RUNS = 5

Start = Callable[[], Any]
Forward = Callable[[Any], Tensor]


class Tuner:
    """Settings of layers, found once for the same layers, rows and precision.

    Args:
        package: torchsparse.
        kind: its class of convolutions.
        settings: its module of settings.
        device: where it runs.

    Attributes:
        default: what it starts from.
    """

    def __init__(self, package: Any, kind: type[nn.Module], settings: Any, device: torch.device) -> None:
        self._package, self._kind, self._device = package, kind, device
        self._settings = settings
        self.default = settings.get_default_conv_config().copy()
        self._found: dict[tuple[object, ...], list[Any]] = {}

    def tune(self, net: nn.Module, start: Start, forward: Forward, *, warm: bool) -> None:
        """Give every convolution of `net` its settings; see `DevicePeer.tune`."""
        convs: list[Any] = [module for module in net.modules() if isinstance(module, self._kind)]
        feats = start().feats
        widths = tuple((*conv.kernel.shape, conv.transposed) for conv in convs)
        tf32 = self._package.backends.allow_tf32
        key = (warm, net.training, len(feats), feats.dtype, tf32, widths)
        if key not in self._found:
            state = copy.deepcopy(net.state_dict())
            with torch.set_grad_enabled(net.training):
                search = self._by_the_clock if warm else self._by_its_tuner
                self._found[key] = search(net, convs, start, forward)
            net.load_state_dict(state)
            net.zero_grad(set_to_none=True)
        for conv, config in zip(convs, self._found[key], strict=True):
            conv._config = config.copy()

    def _by_its_tuner(self, net: nn.Module, convs: list[Any], start: Start, forward: Forward) -> list[Any]:
        model = _Tuned(net, forward).train(net.training)
        with tempfile.TemporaryDirectory() as folder:
            self._package.tune(
                model,
                [start() for _ in range(SAMPLES)],
                n_samples=SAMPLES,
                save_dir=folder,
                force_retune=True,
                tune_with_bwd=net.training,
                verbose=False,
                skip_warning=True,
            )
        found = [conv._config.copy() for conv in convs]
        # it wrote the last layer's settings into the default that all layers share
        self._settings.get_default_conv_config().update(self.default)
        return found

    def _by_the_clock(self, net: nn.Module, convs: list[Any], start: Start, forward: Forward) -> list[Any]:
        forwards = ((False, 1), *((True, splits) for splits in _SPLITS))
        backwards = _SPLITS if net.training else (self.default["split_mask_num_bwd"],)
        spent: list[tuple[float, Any]] = []
        for (ifsort, splits), splits_bwd in itertools.product(forwards, backwards):
            config = self.default.copy()
            config.update({"ifsort": ifsort, "split_mask_num": splits, "split_mask_num_bwd": splits_bwd})
            for conv in convs:
                conv._config = config
            run = _ready(start, forward, training=net.training)
            times = time_candidates({"": run}, self._device, runs=_RUNS, seconds=0.0, events=True)
            spent.append((times[""].best.median, config))
        return [min(spent, key=lambda found: found[0])[1]] * len(convs)


class _Tuned(nn.Module):
    """A network as `torchsparse.tune` calls it: from a tensor whose maps it has just deleted, to features."""

    def __init__(self, net: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.net, self._forward = net, forward

    def forward(self, x: Any) -> Tensor:
        enter(x)
        return self._forward(x)


def enter(x: Any) -> None:
    """Let a tensor know its own level, which a convolution enters only where it writes it."""
    x._caches.cmaps[x.stride] = x.coords, x.spatial_range


def _ready(start: Start, forward: Forward, *, training: bool) -> Callable[[], object]:
    x = start()
    forward(x)

    def both() -> None:
        out = forward(x)
        out.backward(torch.ones_like(out))

    return both if training else lambda: forward(x)

"""MinkUNet in any library: its convolutions and maps between torch's own batch norm, ReLU and addition.

Written apart from `models.minkunet`, so that the network under test and the one it is compared with share no
line of code, and a peer gets what its users would write.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.library import Library, LibraryConv
from pcsparse.bench.limits import Work, conv_work
from pcsparse.bench.map_library import counting
from pcsparse.errors import UnsupportedError
from pcsparse.models.minkunet import BlockSpec, ConvSpec, MinkUNetSpec, StageSpec


class _OnFeats(nn.Module):
    """A torch module applied to the features of a library's tensor."""

    def __init__(self, library: Library, inner: nn.Module) -> None:
        super().__init__()
        self._library, self.inner = library, inner

    def forward(self, x: Any) -> Any:
        if isinstance(self.inner, nn.Identity):
            return x
        return self._library.replace(x, self.inner(self._library.feats(x)))

    def fold_into(self, conv: LibraryConv) -> None:
        """Leave a batch norm, and its ReLU if it has one, to the convolution before it."""
        norm = self.inner
        assert isinstance(norm, nn.BatchNorm1d)
        conv.fold(*scale_and_shift(norm), relu=isinstance(norm, _BatchNormReLU))
        self.inner = nn.Identity()


def scale_and_shift(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What the running statistics make of a norm, (c,) each, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


class _BatchNormReLU(nn.BatchNorm1d):
    """One module, because it is one in `MinkUNet`, and modules are found by name."""

    def forward(self, feats: Tensor) -> Tensor:
        return torch.relu(super().forward(feats))


class _Pointwise(nn.Module):
    """A 1x1 convolution, which is a matrix product in every library."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, c_in, c_out))
        # of a norm that was folded in
        self.register_buffer("shift", None)

    def forward(self, feats: Tensor) -> Tensor:
        if self.shift is not None:
            return torch.addmm(self.shift, feats, self.weight[0])
        return feats @ self.weight[0]

    @torch.no_grad()
    def fold(self, norm: nn.BatchNorm1d) -> None:
        scale, shift = scale_and_shift(norm)
        self.weight.mul_(scale.to(self.weight))
        self.shift = shift.to(self.weight)


class _Block(nn.Module):
    def __init__(self, library: Library, spec: BlockSpec, level: int) -> None:
        super().__init__()
        self._library = library
        c_in, c_out = spec.conv1.c_in, spec.conv2.c_out
        self.conv1 = _submanifold(library, spec.conv1, level)
        self.norm1 = _OnFeats(library, _BatchNormReLU(spec.conv1.c_out))
        self.conv2 = _submanifold(library, spec.conv2, level)
        self.norm2 = _OnFeats(library, nn.BatchNorm1d(c_out))
        plain = c_in == c_out and not spec.projected
        self.shortcut = nn.Sequential() if plain else nn.Sequential(
            _OnFeats(library, _Pointwise(c_in, c_out)), _OnFeats(library, nn.BatchNorm1d(c_out))
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        feats = self._library.feats
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return self._library.replace(y, torch.relu(feats(y) + feats(self.shortcut(x))))

    def fold(self) -> None:
        """Leave the norms to the convolutions before them."""
        self.norm1.fold_into(self.conv1)
        self.norm2.fold_into(self.conv2)
        if len(self.shortcut):
            pointwise, norm = self.shortcut[0].inner, self.shortcut[1].inner
            assert isinstance(pointwise, _Pointwise)
            assert isinstance(norm, nn.BatchNorm1d)
            pointwise.fold(norm)
            self.shortcut[1].inner = nn.Identity()


class LibraryUNet(nn.Module):
    """The network of a Spec in a library; modules are named as in `MinkUNet`.

    Args:
        spec: every width.
        library: whose convolutions.

    Raises:
        UnsupportedError: the Spec drops kernel offsets.
    """

    def __init__(self, spec: MinkUNetSpec, library: Library) -> None:
        super().__init__()
        self.library = library
        norm_relu = self._norm_relu
        self.stem = nn.Sequential(
            *(m for conv in spec.stem for m in (_submanifold(library, conv, 0), norm_relu(conv)))
        )
        self.down, self.encoder = nn.ModuleList(), nn.ModuleList()
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, stage in enumerate(spec.encoder):
            conv = stage.resample
            made = library.conv("strided", 2, 2, *_channels(conv), level)
            self.down.append(nn.Sequential(made, norm_relu(conv)))
            self.encoder.append(self._blocks(stage, level + 1))
        for level, stage in zip(reversed(range(len(spec.encoder))), spec.decoder, strict=True):
            conv = stage.resample
            made = library.conv("inverse", 2, 2, *_channels(conv), level)
            self.up.append(nn.Sequential(made, norm_relu(conv)))
            self.decoder.append(self._blocks(stage, level))
        width = spec.decoder[-1].blocks[-1].conv2.c_out
        self.classifier = _OnFeats(library, nn.Linear(width, spec.n_classes))

    def _norm_relu(self, conv: ConvSpec) -> nn.Module:
        return _OnFeats(self.library, _BatchNormReLU(conv.c_out))

    def _blocks(self, stage: StageSpec, level: int) -> nn.Sequential:
        return nn.Sequential(*(_Block(self.library, block, level) for block in stage.blocks))

    def forward(self, x: Any) -> Any:
        """A tensor of the library -> logits at the same voxels, in the same order of rows."""
        feats = self.library.feats
        x = self.stem(x)
        skips = []
        for down, blocks in zip(self.down, self.encoder, strict=True):
            skips.append(x)
            x = blocks(down(x))
        for up, blocks in zip(self.up, self.decoder, strict=True):
            x = up(x)
            x = blocks(self.library.replace(x, torch.cat([feats(x), feats(skips.pop())], dim=1)))
        return self.classifier(x)

    def load(self, state: dict[str, Tensor]) -> "LibraryUNet":
        """Take the weights and statistics of a `MinkUNet`.

        Args:
            state: its `state_dict()`.

        Returns:
            This network.
        """
        left = set(state)
        for name, module in self.named_modules():
            if isinstance(module, LibraryConv):
                module.load(state[f"{name}.weight"])
                left.discard(f"{name}.weight")
            elif isinstance(module, _OnFeats):
                own = module.inner.state_dict()
                module.inner.load_state_dict({key: state[f"{name}.{key}"] for key in own})
                left -= {f"{name}.{key}" for key in own}
        if left:
            raise UnsupportedError(f"the comparison network has no place for {sorted(left)[:5]}")
        return self

    def fold(self) -> "LibraryUNet":
        """Fold batch norm, and ReLU where nothing is added before it, into the convolutions, for inference.

        Raises:
            UnsupportedError: the library's convolutions take in neither.
        """
        for stage in (self.stem, *self.down, *self.up):
            for conv, norm in zip(stage[::2], stage[1::2], strict=True):  # type: ignore[index]
                norm.fold_into(conv)
        for module in self.modules():
            if isinstance(module, _Block):
                module.fold()
        return self

    def norms(self) -> dict[str, nn.BatchNorm1d]:
        """Batch norms by the name that they have in `MinkUNet`."""
        return {
            name: module.inner
            for name, module in self.named_modules()
            if isinstance(module, _OnFeats) and isinstance(module.inner, nn.BatchNorm1d)
        }

    def gradients(self) -> dict[str, Tensor]:
        """Of every convolution's weights (k, c_in, c_out), by the name of the parameter in `MinkUNet`."""
        found = {}
        for name, module in self.named_modules():
            if isinstance(module, LibraryConv):
                found[f"{name}.weight"] = module.grad()
            elif isinstance(module, _OnFeats) and isinstance(module.inner, _Pointwise):
                gradient = module.inner.weight.grad
                if gradient is not None:
                    found[f"{name}.weight"] = gradient
        return found


def _submanifold(library: Library, conv: ConvSpec, level: int) -> LibraryConv:
    return library.conv("submanifold", 3, 1, *_channels(conv), level)


def _channels(conv: ConvSpec) -> tuple[int, int]:
    if conv.offsets is not None:
        raise UnsupportedError(f"the comparison network cannot drop kernel offsets, as {conv} does")
    return conv.c_in, conv.c_out


def network_work(
    spec: MinkUNetSpec, coords: Tensor, *, training: bool, dtype: torch.dtype = torch.float32
) -> tuple[Work, ...]:
    """The work of every convolution of the network, in order; nothing is computed but the maps.

    Args:
        spec: every width.
        coords: (n, 4) int32, ascending by key.
        training: both gradients too.
        dtype: of the products.
    """
    works: list[Work] = []
    net = LibraryUNet(spec, counting(works, training=training, dtype=dtype)).to("meta")

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        n, (k, c_in, c_out) = len(inputs[0]), module.weight.shape  # type: ignore[union-attr,misc]
        works.append(conv_work(n, n, n, k, c_in, c_out, training, dtype))  # type: ignore[arg-type]

    for module in net.modules():
        if isinstance(module, _Pointwise):
            module.register_forward_pre_hook(count)
    with torch.no_grad():
        net(net.library.tensor(coords, torch.empty(len(coords), spec.stem[0].c_in, device="meta")))
    return tuple(works)

"""SECOND's backbone in any library, written apart from `models.second`, with modules of the same names."""

from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.device.grid_conv import GridConv, GridLibrary
from pcsparse.bench.library import LibraryConv
from pcsparse.bench.unet import scale_and_shift
from pcsparse.errors import UnsupportedError
from pcsparse.models import SecondSpec
from pcsparse.models.minkunet import ConvSpec
from pcsparse.types import Triple

_EPS, _MOMENTUM = 1e-3, 0.01
_CUBE, _ONES, _TWOS, _ZEROS = (3, 3, 3), (1, 1, 1), (2, 2, 2), (0, 0, 0)


class _Norm(nn.Module):
    """Batch norm of a library's tensor, then ReLU or not; nothing once it is folded."""

    def __init__(self, library: GridLibrary, channels: int, *, relu: bool = True) -> None:
        super().__init__()
        self._library, self._relu = library, relu
        self.inner: nn.Module = nn.BatchNorm1d(channels, eps=_EPS, momentum=_MOMENTUM)

    def forward(self, x: Any) -> Any:
        if isinstance(self.inner, nn.Identity):
            return x
        feats = self.inner(self._library.feats(x))
        return self._library.replace(x, torch.relu(feats) if self._relu else feats)

    def fold_into(self, conv: LibraryConv) -> None:
        norm = self.inner
        assert isinstance(norm, nn.BatchNorm1d)
        conv.fold(*scale_and_shift(norm), relu=self._relu)
        self.inner = nn.Identity()


class _Block(nn.Module):
    def __init__(self, library: GridLibrary, conv: GridConv, first: ConvSpec, second: ConvSpec) -> None:
        super().__init__()
        self._library = library
        self.conv1 = library.grid_conv(conv, first.c_in, first.c_out)
        self.norm1 = _Norm(library, first.c_out)
        self.conv2 = library.grid_conv(conv, second.c_in, second.c_out)
        self.norm2 = _Norm(library, second.c_out, relu=False)

    def forward(self, x: Any) -> Any:
        feats = self._library.feats
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return self._library.replace(y, torch.relu(feats(y) + feats(x)))


class LibrarySecond(nn.Module):
    """The backbone of a Spec in a library, up to the last sparse convolution.

    Args:
        spec: every width.
        library: whose convolutions.

    Raises:
        UnsupportedError: the Spec drops kernel offsets.
    """

    def __init__(self, spec: SecondSpec, library: GridLibrary) -> None:
        super().__init__()
        self.spec, self.library = spec, library
        # one more layer of cells above the highest, as OpenPCDet's sparse_shape has
        grid: Triple = (spec.grid[0], spec.grid[1], spec.grid[2] + 1)
        self.conv_input = self._layer(_cube(grid, 1), spec.stem)
        for i, stage in enumerate(spec.stages, start=1):
            layers: list[nn.Module] = []
            if stage.down is not None:
                down = GridConv(_CUBE, _TWOS, (1, 1, 0) if i == 4 else _ONES, grid, f"down{i}")
                layers.append(self._layer(down, stage.down))
                grid = down.grid_out
            cube = _cube(grid, i)
            if spec.residual:
                pairs = zip(stage.convs[::2], stage.convs[1::2], strict=True)
                layers += [_Block(library, cube, first, second) for first, second in pairs]
            else:
                layers += [self._layer(cube, conv) for conv in stage.convs]
            self.add_module(f"conv{i}", nn.Sequential(*layers))
        column = GridConv((1, 1, 3), (1, 1, 2), _ZEROS, grid, "out")
        self.conv_out = self._layer(column, spec.out)

    def _layer(self, conv: GridConv, spec: ConvSpec) -> nn.Sequential:
        if spec.offsets is not None:
            raise UnsupportedError(f"the comparison network cannot drop kernel offsets, as {spec} does")
        made = self.library.grid_conv(conv, spec.c_in, spec.c_out)
        return nn.Sequential(made, _Norm(self.library, spec.c_out))

    def forward(self, x: Any) -> Any:
        """A tensor of the library -> the tensor of the last convolution."""
        x = self.conv_input(x)
        for i in range(1, 5):
            x = self.get_submodule(f"conv{i}")(x)
        return self.conv_out(x)

    def load(self, state: dict[str, Tensor]) -> "LibrarySecond":
        """Take the weights and statistics of a `SecondBackbone`; returns this network."""
        for name, module in self.named_modules():
            if isinstance(module, LibraryConv):
                module.load(state[f"{name}.weight"])
            elif isinstance(module, _Norm):
                own = module.inner.state_dict()
                module.inner.load_state_dict({key: state[f"{name}.{key}"] for key in own})
        return self

    def fold(self) -> "LibrarySecond":
        """Fold batch norm, and ReLU where nothing is added before it, into the convolutions."""
        for module in self.modules():
            if isinstance(module, _Block):
                module.norm1.fold_into(module.conv1)
                module.norm2.fold_into(module.conv2)
            elif isinstance(module, nn.Sequential) and isinstance(module[0], LibraryConv):
                module[1].fold_into(module[0])  # type: ignore[operator]
        return self

    def gradients(self) -> dict[str, Tensor]:
        """Of every convolution's weights (k, c_in, c_out), by the name of the parameter."""
        return {f"{n}.weight": m.grad() for n, m in self.named_modules() if isinstance(m, LibraryConv)}

    def norms(self) -> dict[str, nn.BatchNorm1d]:
        """Batch norms by the name that they have in `SecondBackbone`."""
        return {
            name: module.inner
            for name, module in self.named_modules()
            if isinstance(module, _Norm) and isinstance(module.inner, nn.BatchNorm1d)
        }


def _cube(grid: Triple, stage: int) -> GridConv:
    return GridConv(_CUBE, _ONES, _ONES, grid, f"cube{stage}", submanifold=True)

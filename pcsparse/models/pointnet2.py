"""PointNet++: classification and segmentation of points by nested local networks.

Levels of set abstraction (sample, group, describe), and then either one description of each cloud and a
classifier, or feature propagation back to all points and a classifier of each.

Source: Qi et al., NeurIPS 2017 (arXiv 1706.02413), section 4 and appendix B. Layer tables:
models/pointnet2_cls_ssg.py, pointnet2_cls_msg.py and pointnet2_sem_seg.py of charlesq34/pointnet2.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.errors import FormatError, RangeError
from pcsparse.models.example_points import device_of_points
from pcsparse.nn.point_set import FeaturePropagation, GlobalAbstraction, PointSet, SetAbstraction
from pcsparse.nn.row_layer import RowLayer, RowLinear, RowNorm


@dataclass(frozen=True)
class LayerSpec:
    """One layer that all rows share: channels."""

    c_in: int
    c_out: int


Layers = tuple[LayerSpec, ...]


@dataclass(frozen=True)
class ScaleSpec:
    """Groups of one size: radius in metres, neighbours at most, and the layers that describe them."""

    radius: float
    limit: int
    layers: Layers


@dataclass(frozen=True)
class AbstractionSpec:
    """One level: centres a cloud, and the groups around them at one scale or several."""

    n_samples: int
    scales: tuple[ScaleSpec, ...]


@dataclass(frozen=True)
class PointNet2Spec:
    """Every width of a PointNet++, so that a sliced network is the same class with another Spec.

    Attributes:
        in_channels: features a point beside its place; 0 for none.
        abstractions: from fine to coarse.
        pooled: layers that describe a whole cloud; none in a network for segmentation.
        propagations: layers from the coarsest level to the points; none in one for classification.
        head: linear layers of the classifier, the last one without norm and ReLU.
        dropout: share of zeros before each layer of the head but the first.
    """

    in_channels: int
    abstractions: tuple[AbstractionSpec, ...]
    pooled: Layers
    propagations: tuple[Layers, ...]
    head: Layers
    dropout: float = 0.5

    @property
    def n_classes(self) -> int:
        """Outputs a cloud or a point."""
        return self.head[-1].c_out

    @staticmethod
    def classification(in_channels: int = 0, n_classes: int = 40) -> "PointNet2Spec":
        """Single-scale grouping for ModelNet40: 1.48 M parameters. Clouds are scaled to the unit ball."""
        levels = (
            _abstraction(512, in_channels, ((0.2, 32, (64, 64, 128)),)),
            _abstraction(128, 128, ((0.4, 64, (128, 128, 256)),)),
        )
        pooled, head = _chain(3 + 256, 256, 512, 1024), _chain(1024, 512, 256, n_classes)
        return PointNet2Spec(in_channels, levels, pooled, (), head)

    @staticmethod
    def classification_msg(in_channels: int = 0, n_classes: int = 40) -> "PointNet2Spec":
        """Multi-scale grouping for ModelNet40: 1.75 M parameters; its classifier drops 60 %, not half."""
        fine = (
            (0.1, 16, (32, 32, 64)), (0.2, 32, (64, 64, 128)), (0.4, 128, (64, 96, 128)),
        )  # fmt: skip
        coarse = (
            (0.2, 32, (64, 64, 128)), (0.4, 64, (128, 128, 256)), (0.8, 128, (128, 128, 256)),
        )  # fmt: skip
        levels = _abstraction(512, in_channels, fine), _abstraction(128, 320, coarse)
        pooled, head = _chain(3 + 640, 256, 512, 1024), _chain(1024, 512, 256, n_classes)
        return PointNet2Spec(in_channels, levels, pooled, (), head, dropout=0.6)

    @staticmethod
    def segmentation(in_channels: int = 0, n_classes: int = 13) -> "PointNet2Spec":
        """Semantic segmentation of rooms, four levels down and up: 0.97 M parameters at 13 classes."""
        levels = (
            _abstraction(1024, in_channels, ((0.1, 32, (32, 32, 64)),)),
            _abstraction(256, 64, ((0.2, 32, (64, 64, 128)),)),
            _abstraction(64, 128, ((0.4, 32, (128, 128, 256)),)),
            _abstraction(16, 256, ((0.8, 32, (256, 256, 512)),)),
        )
        propagations = (
            _chain(512 + 256, 256, 256), _chain(256 + 128, 256, 256), _chain(256 + 64, 256, 128),
            _chain(128 + in_channels, 128, 128, 128),
        )  # fmt: skip
        return PointNet2Spec(in_channels, levels, (), propagations, _chain(128, 128, n_classes))

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "PointNet2Spec":
        """The same network with other channels.

        Args:
            channels: c_in and c_out by the name that the linear layer has in `PointNet2`, such as
                "abstractions.0.layers.0.2.0"; layers that are not named stay as they are.

        Raises:
            RangeError: a name that is no layer of the network.
        """
        left = dict(channels)

        def sized(layers: Layers, *names: str) -> Layers:
            sizes = (left.pop(n, (old.c_in, old.c_out)) for n, old in zip(names, layers, strict=True))
            return tuple(LayerSpec(c_in, c_out) for c_in, c_out in sizes)

        def chain(where: str, layers: Layers) -> Layers:
            return sized(layers, *(f"{where}.layers.{i}.0" for i in range(len(layers))))

        def level(i: int, old: AbstractionSpec) -> AbstractionSpec:
            scales = (
                replace(scale, layers=sized(
                    scale.layers, *(f"abstractions.{i}.layers.{j}.{k}.0" for k in range(len(scale.layers)))
                ))
                for j, scale in enumerate(old.scales)
            )  # fmt: skip
            return replace(old, scales=tuple(scales))

        spec = replace(
            self,
            abstractions=tuple(level(i, old) for i, old in enumerate(self.abstractions)),
            pooled=chain("pooled", self.pooled),
            propagations=tuple(chain(f"propagations.{i}", old) for i, old in enumerate(self.propagations)),
            head=sized(self.head, *_head_names(self)),
        )
        if left:
            raise RangeError(f"this PointNet2 has no layer {', '.join(sorted(left))}")
        return spec

    def with_classes(self, n_classes: int) -> "PointNet2Spec":
        """The same network with another classifier."""
        return replace(self, head=(*self.head[:-1], replace(self.head[-1], c_out=n_classes)))

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "PointNet2Spec":
        """Inverse of `to_json`.

        Raises:
            FormatError: not the JSON of a PointNet2Spec.
        """
        try:
            data = json.loads(text)
            return PointNet2Spec(
                int(data["in_channels"]),
                tuple(
                    AbstractionSpec(
                        int(level["n_samples"]),
                        tuple(
                            ScaleSpec(float(scale["radius"]), int(scale["limit"]), _layers(scale["layers"]))
                            for scale in level["scales"]
                        ),
                    )
                    for level in data["abstractions"]
                ),
                _layers(data["pooled"]),
                tuple(map(_layers, data["propagations"])),
                _layers(data["head"]),
                float(data["dropout"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a PointNet2Spec ({error!r}): {text[:200]}") from error


def _head_names(spec: PointNet2Spec) -> list[str]:
    """Names of the head's linear layers; the last one has no norm."""
    last = len(spec.head) - 1
    if not spec.propagations:
        return [f"head.{4 * i}" for i in range(last + 1)]
    return [*(f"head.{2 * i}.0" for i in range(last)), f"head.{2 * last}"]


def _chain(*widths: int) -> Layers:
    return tuple(LayerSpec(c_in, c_out) for c_in, c_out in pairwise(widths))


def _abstraction(
    n_samples: int, channels: int, scales: tuple[tuple[float, int, tuple[int, ...]], ...]
) -> AbstractionSpec:
    return AbstractionSpec(
        n_samples,
        tuple(ScaleSpec(radius, limit, _chain(3 + channels, *widths)) for radius, limit, widths in scales),
    )


def _layers(data: list[dict[str, int]]) -> Layers:
    return tuple(LayerSpec(**layer) for layer in data)


class PointNet2(nn.Module):
    """Logits for every cloud, or for every point if the Spec has propagations.

    Args:
        spec: every width; `PointNet2Spec.classification()` and its neighbours give the published ones.

    Raises:
        RangeError: neighbouring widths of the Spec do not fit each other, a level has no scale or a scale no
            layer, or the Spec is for both or neither task.
    """

    def __init__(self, spec: PointNet2Spec) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        self.abstractions = nn.ModuleList(
            SetAbstraction(
                level.n_samples,
                [(scale.radius, scale.limit) for scale in level.scales],
                [_widths(scale.layers) for scale in level.scales],
            )
            for level in spec.abstractions
        )
        self.pooled = GlobalAbstraction(_widths(spec.pooled)) if spec.pooled else None
        self.propagations = nn.ModuleList(FeaturePropagation(_widths(way)) for way in spec.propagations)
        self.head = _point_head(spec) if spec.propagations else _cloud_head(spec)

    def forward(
        self,
        points: Tensor,
        feats: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        clouds: int | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Logits.

        Sampling begins with the first point of each cloud, or with the rows `first`. But for ties of
        distances the logits do not depend on the order of the points, if the same point begins.

        Args:
            points: (n, 3) float32, metres, finite.
            feats: (n, in_channels) float; None where in_channels is 0.
            batch: (n,) int32 or int64, the cloud of each point, in any order; 0 for all if None.
            clouds: how many there are; up to the highest in `batch` if None.
            first: (clouds up to the highest in `batch`,) integer, the row that sampling begins with.

        Returns:
            (clouds, n_classes) or (n, n_classes).

        Raises:
            ShapeError, DtypeError, DeviceError: as `coords.neighbors.farthest_points`, or `feats` does not
                fit.
            RangeError: as there; or a cloud to be classified has no points.
        """
        batch = self._checked(points, feats, batch)
        n_clouds = _count_clouds(batch, clouds)
        levels = [PointSet(points, batch, feats)]
        for number, abstraction in enumerate(self.abstractions):
            levels.append(abstraction(levels[-1], first if number == 0 else None))
        if self.pooled is not None:
            _check_none_is_empty(batch, n_clouds)
            return self.head(self.pooled(levels[-1], n_clouds))
        x = levels.pop()
        for propagation in self.propagations:
            x = propagation(x, levels.pop())
        return self.head(x.feats)

    def example_input(self) -> tuple[Tensor, ...]:
        """A cloud of five points, and their features if there are any: the arguments of `forward`.

        They lie where the parameters do; on the CPU if these are on the "meta" device.
        """
        device, c = device_of_points(self), self.spec.in_channels
        points = torch.arange(15.0, device=device).view(5, 3) / 15
        return (points, torch.zeros(5, c, device=device)) if c else (points,)

    def _checked(self, points: Tensor, feats: Tensor | None, batch: Tensor | None) -> Tensor:
        check_shape("points", points, (None, 3))
        if (feats is None) != (self.spec.in_channels == 0):
            raise RangeError(
                f"this network reads {self.spec.in_channels} features a point beside its place, got "
                f"{'none' if feats is None else feats.shape[-1]}; give what the Spec says"
            )
        if feats is not None:
            check_shape("feats", feats, (len(points), self.spec.in_channels))
            check_same_device(points=points, feats=feats)
        if batch is None:
            return torch.zeros(len(points), dtype=torch.int64, device=points.device)
        check_shape("batch", batch, (len(points),))
        check_dtype("batch", batch, torch.int32, torch.int64)
        return batch


def _count_clouds(batch: Tensor, clouds: int | None) -> int:
    found = int(batch.max()) + 1 if len(batch) else 0
    if clouds is None:
        return found
    if clouds < found:
        raise RangeError(
            f"clouds={clouds}, but the batch has points of cloud {found - 1}; give a larger number"
        )
    return clouds


def _check_none_is_empty(batch: Tensor, clouds: int) -> None:
    counts = torch.bincount(batch, minlength=clouds)
    if bool((counts == 0).any()):
        empty = torch.nonzero(counts == 0)[:, 0].tolist()
        raise RangeError(f"clouds {empty} of {clouds} have no points to classify; leave them out")


def _widths(layers: Layers) -> list[tuple[int, int]]:
    return [(layer.c_in, layer.c_out) for layer in layers]


def _cloud_head(spec: PointNet2Spec) -> nn.Sequential:
    """Few rows, and linear layers of torch's own class, which `compress.heads` converts.

    They are what is left to a BLAS: with some numbers of clouds its last bits depend on the threads.
    """
    layers: list[nn.Module] = []
    for layer in spec.head[:-1]:
        layers += [
            nn.Linear(layer.c_in, layer.c_out), RowNorm(layer.c_out), nn.ReLU(),
            nn.Dropout(spec.dropout),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Linear(spec.head[-1].c_in, spec.head[-1].c_out))


def _point_head(spec: PointNet2Spec) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in spec.head[:-1]:
        layers += [RowLayer(layer.c_in, layer.c_out), nn.Dropout(spec.dropout)]
    return nn.Sequential(*layers, RowLinear(spec.head[-1].c_in, spec.head[-1].c_out))


def _check(spec: PointNet2Spec) -> None:
    """Walk through the channels as `forward` does."""

    def walk(where: str, channels: int, layers: Layers) -> int:
        for i, layer in enumerate(layers):
            if layer.c_in != channels:
                raise RangeError(
                    f"{where}.{i} of the Spec reads {layer.c_in} channels, but {channels} arrive"
                )
            channels = layer.c_out
        return channels

    if not spec.abstractions or not spec.head or bool(spec.pooled) == bool(spec.propagations):
        raise RangeError(
            "a PointNet2Spec needs abstractions, a head, and either pooled layers (to classify clouds) or "
            f"propagations (to classify points); it has {len(spec.abstractions)} abstractions, "
            f"{len(spec.head)} layers of the head, {len(spec.pooled)} pooled and "
            f"{len(spec.propagations)} propagations"
        )
    channels = [spec.in_channels]
    for i, level in enumerate(spec.abstractions):
        if not level.scales:
            raise RangeError(f"abstractions.{i} of the Spec has no scale; give at least one")
        for j, scale in enumerate(level.scales):
            if not scale.layers:
                raise RangeError(f"abstractions.{i}.{j} of the Spec has no layer; give at least one")
        ends = [
            walk(f"abstractions.{i}.{j}", 3 + channels[-1], scale.layers)
            for j, scale in enumerate(level.scales)
        ]
        channels.append(sum(ends))
    if spec.pooled:
        walk("head", walk("pooled", 3 + channels[-1], spec.pooled), spec.head)
        return
    if len(spec.propagations) != len(spec.abstractions):
        raise RangeError(
            f"{len(spec.abstractions)} abstractions need as many propagations, the Spec has "
            f"{len(spec.propagations)}"
        )
    arriving = channels.pop()
    for i, layers in enumerate(spec.propagations):
        arriving = walk(f"propagations.{i}", arriving + channels.pop(), layers)
    walk("head", arriving, spec.head)

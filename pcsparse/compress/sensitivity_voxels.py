"""The axis of voxels in a sensitivity scan: how many rows of a layer need not be convolved."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pcsparse.compress.cost import CostTable
from pcsparse.compress.voxel_importance import PARTS, VoxelImportance
from pcsparse.compress.voxels import REST, check_rest, voxel_layers
from pcsparse.errors import RangeError
from pcsparse.nn.conv import Rest


class VoxelsAxis:
    """Rows, layer by layer, by the mean size of the features that the layer reads.

    Args:
        model: whose layers; it convolves all rows.
        cost: of `model`; where multiply-adds and milliseconds come from.
        importance: of `model`, from `voxel_importance` with the same `rest`: which pairs are left.
        rest: what becomes of the rows that are not convolved.

    Raises:
        RangeError: `cost` or `importance` lacks a layer, no such `rest`, or a layer has a share of rows
            already.
    """

    name = "voxels"

    def __init__(
        self,
        model: nn.Module,
        *,
        cost: CostTable | None = None,
        importance: Sequence[VoxelImportance] | None = None,
        rest: Rest = REST,
    ) -> None:
        check_rest(rest)
        layers = voxel_layers(model, rest)
        for name, part in layers.items():
            if part.voxels is not None:
                raise RangeError(f"{name} has voxels={part.voxels} already; scan the network with all rows")
        self._names, self._rest = tuple(layers), rest
        self._cost = cost
        self._layers = {layer.name: layer for layer in cost.layers if layer.kind == "conv"} if cost else {}
        self._importance = {found.name: found for found in importance or ()}
        for known, of in ((self._layers, cost), (self._importance, importance)):
            missing = [name for name in layers if name not in known]
            if of is not None and missing:
                raise RangeError(f"{missing[0]} was not measured; measure the network that is scanned")

    def sizes(self) -> Mapping[str, int]:
        """Thousandths of a cloud's rows, for each layer that can do with some."""
        return dict.fromkeys(self._names, PARTS)

    def labels(self) -> Mapping[str, str]:
        """Names say it all."""
        return {}

    def kept(self, name: str, ratio: float) -> int:
        """Thousandths that are convolved."""
        return max(1, round((1.0 - ratio) * PARTS))

    def cut(self, model: nn.Module, name: str, kept: int) -> None:
        """Set the share of a layer."""
        layer = voxel_layers(model, self._rest)[name]
        layer.voxels, layer.rest = kept / PARTS, self._rest

    def facts(self) -> Mapping[str, Any]:
        """What becomes of the other rows, unless they pass, as in logs from before there was a choice."""
        return {} if self._rest == "pass" else {"rest": self._rest}

    def macs(self, name: str, kept: int) -> float | None:
        """Without the pairs that are left out; None without a cost and an importance."""
        if self._cost is None or name not in self._importance:
            return None
        layer = self._layers[name]
        return self._cost.total("MACs") - self._saved(name, kept) * layer.macs(layer.c_in, layer.c_out)

    def milliseconds(self, name: str, kept: int) -> float | None:
        """The layer's time in proportion to its pairs; the choice of rows and the filter are not in it."""
        if self._cost is None or name not in self._importance:
            return None
        layer = self._layers[name]
        # with its share of the rest, as it stands in the total
        of_layer = self._cost.of_layer(layer, "ms", layer.c_in, layer.c_out)
        return self._cost.total("ms") - self._saved(name, kept) * of_layer

    def _saved(self, name: str, kept: int) -> float:
        return 1.0 - self._importance[name].pairs_at(kept / PARTS)

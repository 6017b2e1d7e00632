"""The two ways from a dense layer to a packed one, stage by stage."""

from collections import defaultdict
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from pcsparse.compress.channel_order import ELEMENTWISE, permute_head
from pcsparse.compress.shared_weights import (
    keep_largest,
    share_weights,
    train_centroids,
    trained_centroids,
)
from pcsparse.compress.sparse_heads_layers import HeadLayer
from pcsparse.compress.sparse_heads_report import Method
from pcsparse.compress.sparse_heads_run import Run
from pcsparse.compress.sparse_heads_settings import EIESettings, TwoFourSettings
from pcsparse.compress.two_four import attach_mask, attach_sr_ste, bake, two_four_mask
from pcsparse.errors import RangeError
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear
from pcsparse.packed.eie import EIEMatrix, pack_eie
from pcsparse.packed.two_four import GROUP, pack_two_four

Layers = tuple[HeadLayer, ...]


class Recipe(Protocol):
    """What the methods have in common."""

    method: Method
    shares: bool
    """Whether weights share values, and these are trained once more."""

    def refusal(self, name: str, module: nn.Linear | nn.Conv2d) -> str | None:
        """Why a layer cannot be taken; None if it can."""

    def check(self, layers: Layers) -> None:
        """Refuse settings that no layer has a use for.

        Raises:
            RangeError: they are.
        """

    def trial(self, layer: HeadLayer) -> EIELinear | SemiStructuredLinear:
        """A packed layer with the places of the weights to come, to see before training that it can be made.

        Raises:
            RangeError: it cannot.
        """

    def make(self, layers: Layers, run: Run) -> list[EIELinear | SemiStructuredLinear]:
        """Prune and train; the layers are plain again, with the weights that were packed."""


class EIERecipe:
    """Prune, train what is left, share, train what is shared, pack."""

    method: Method = "eie"
    shares = True

    def __init__(self, settings: EIESettings) -> None:
        self._settings = settings

    def refusal(self, name: str, module: nn.Linear | nn.Conv2d) -> str | None:
        """A layer of which nothing would be left."""
        density = self._settings.density_of(name)
        if round(density * module.weight.numel()) == 0:
            return f"a density of {density} keeps none of its {module.weight.numel()} weights"
        return None

    def check(self, layers: Layers) -> None:
        """A density of a layer that is not converted is a misspelt name."""
        names = [layer.name for layer in layers]
        for name in self._settings.densities:
            if name not in names:
                raise RangeError(f"densities: {name!r} is not converted; layers that are: {', '.join(names)}")

    def trial(self, layer: HeadLayer) -> EIELinear:
        """All weights alike: entries and pads are where they will be."""
        widths = self._settings.widths
        codebook = torch.zeros(1 << widths.code_bits, dtype=torch.float32, device="cpu")
        codebook[1:] = 1.0
        return _packed_eie(layer, pack_eie(self._mask(layer).to(torch.uint8), codebook, widths))

    def make(self, layers: Layers, run: Run) -> list[EIELinear | SemiStructuredLinear]:
        """Deep Compression without its Huffman stage, which belongs to files."""
        for layer in layers:
            attach_mask(layer.module, layer.shaped(self._mask(layer)))
        run.measure("pruned")
        run.train("pruned, fine-tuned")
        for layer in layers:
            bake(layer.module)
            shared = share_weights(
                layer.matrix(), code_bits=self._settings.widths.code_bits, initial=self._settings.initial
            )
            train_centroids(layer.module, replace(shared, codes=layer.shaped(shared.codes)))
        run.measure("shared")
        run.train("shared, fine-tuned", shared=True)
        made: list[EIELinear | SemiStructuredLinear] = []
        for layer in layers:
            shared = trained_centroids(layer.module)
            shared = replace(shared, codes=layer.flat(shared.codes))
            made.append(_packed_eie(layer, shared.pack(self._settings.widths)))
        return made

    def _mask(self, layer: HeadLayer) -> Tensor:
        return keep_largest(layer.matrix(), self._settings.density_of(layer.name))


class TwoFourRecipe:
    """Order channels where asked, prune, train what is left, pack."""

    method: Method = "2:4"
    shares = False

    def __init__(self, settings: TwoFourSettings) -> None:
        self._settings = settings

    def refusal(self, name: str, module: nn.Linear | nn.Conv2d) -> str | None:
        """A layer whose input channels are no whole groups."""
        n_in = module.weight.shape[1]
        return f"{n_in} input channels are no multiple of {GROUP}" if n_in % GROUP else None

    def check(self, layers: Layers) -> None:
        """Nothing is set for single layers."""

    def trial(self, layer: HeadLayer) -> SemiStructuredLinear:
        """The layer as it is when only pruned."""
        return _packed_two_four(layer, layer.matrix() * two_four_mask(layer.matrix()))

    def make(self, layers: Layers, run: Run) -> list[EIELinear | SemiStructuredLinear]:
        """The published recipe, or SR-STE."""
        if self._settings.permute:
            for part in _orderable(layers, run.model):
                permute_head(part, rounds=self._settings.rounds)
        for layer in layers:
            if self._settings.training == "sr-ste":
                attach_sr_ste(layer.module, self._settings.decay)
            else:
                attach_mask(layer.module, layer.shaped(two_four_mask(layer.matrix())))
        run.measure("pruned")
        run.train("pruned, fine-tuned")
        made: list[EIELinear | SemiStructuredLinear] = []
        for layer in layers:
            bake(layer.module)
            made.append(_packed_two_four(layer, layer.matrix()))
        return made


def _orderable(layers: Layers, model: nn.Module) -> list[nn.Sequential]:
    """Parts of `nn.Sequential` modules whose channels between linear layers can be ordered.

    Neighbours that treat channels alone, from one converted linear layer to the last one; nothing in them
    stands anywhere else in the model.
    """
    names: dict[nn.Module, int] = defaultdict(int)
    for _, module in model.named_modules(remove_duplicate=False):
        names[module] += 1
    converted = {layer.module for layer in layers}
    found = []
    for head in [module for module in model.modules() if type(module) is nn.Sequential]:
        run: list[nn.Module] = []
        # the end of the head ends the last part, as any other module that may mix channels does
        for module in [*head, None]:
            if module is not None and names[module] == 1:
                starts = module in converted and isinstance(module, nn.Linear)
                if starts or (run and _alone(module)):
                    run.append(module)
                    continue
            while run and not isinstance(run[-1], nn.Linear):
                run.pop()
            if len(run) > 1:
                found.append(nn.Sequential(*run))
            run = []
    return found


def _alone(module: nn.Module) -> bool:
    return type(module) in (nn.BatchNorm1d, *ELEMENTWISE)


def _packed_eie(layer: HeadLayer, matrix: EIEMatrix) -> EIELinear:
    # from the CPU, where matrices are packed
    bias = layer.module.bias
    made = EIELinear.from_matrix(matrix, None if bias is None else bias.detach().cpu())
    return made.to(layer.module.weight.device)


def _packed_two_four(layer: HeadLayer, weight: Tensor) -> SemiStructuredLinear:
    return SemiStructuredLinear.from_matrix(pack_two_four(weight), layer.module.bias, mode="sparse")

"""Dense layers of heads made sparse in one call, and the names of the steps that it takes.

Classification heads and dense heads on a bird's-eye view stand behind a sparse backbone; their linear and 2-D
convolution layers can be stored in EIE's format or keep two of each four weights.
"""

from typing import get_args

import torch
from torch import nn

from pcsparse.compress.shared_weights import Initial as Initial
from pcsparse.compress.shared_weights import SharedParametrization as SharedParametrization
from pcsparse.compress.shared_weights import SharedWeights as SharedWeights
from pcsparse.compress.shared_weights import keep_largest as keep_largest
from pcsparse.compress.shared_weights import share_weights as share_weights
from pcsparse.compress.shared_weights import train_centroids as train_centroids
from pcsparse.compress.shared_weights import trained_centroids as trained_centroids
from pcsparse.compress.sparse_heads_file import load_heads as load_heads
from pcsparse.compress.sparse_heads_file import report_of
from pcsparse.compress.sparse_heads_file import save_heads as save_heads
from pcsparse.compress.sparse_heads_layers import HeadLayer, Heads, find_layers
from pcsparse.compress.sparse_heads_recipe import EIERecipe, Recipe, TwoFourRecipe
from pcsparse.compress.sparse_heads_report import HeadsReport as HeadsReport
from pcsparse.compress.sparse_heads_report import LayerReport as LayerReport
from pcsparse.compress.sparse_heads_report import Method
from pcsparse.compress.sparse_heads_report import SkippedLayer as SkippedLayer
from pcsparse.compress.sparse_heads_report import Stage as Stage
from pcsparse.compress.sparse_heads_run import Before, Inputs, Run, check_packed
from pcsparse.compress.sparse_heads_settings import EIESettings as EIESettings
from pcsparse.compress.sparse_heads_settings import Evaluate, Fit
from pcsparse.compress.sparse_heads_settings import TwoFourSettings as TwoFourSettings
from pcsparse.errors import DeviceError, RangeError, UnsupportedError
from pcsparse.nn.linear_conv2d import Mode
from pcsparse.nn.product_choice import Way
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear


def sparsify_heads(
    model: nn.Module,
    method: Method | EIESettings | TwoFourSettings,
    *,
    heads: Heads | None = None,
    evaluate: Evaluate | None = None,
    fit: Fit | None = None,
    fit_shared: Fit | None = None,
    with_dense_control: bool = False,
    mode: Mode = "auto",
) -> HeadsReport:
    """Convert the linear and 2-D convolution layers of heads into packed layers, in place.

    EIE: the largest weights stay, and `fit` trains them with the others held at 0; then they share values,
    which `fit_shared` trains; then they are packed. 2:4: the two largest of each four input channels stay,
    `fit` trains them, they are packed. `evaluate` runs before, between and after. Without `fit` nothing is
    trained: what `evaluate` finds is the one-shot result.

    Converted are layers of exactly torch's own classes, `nn.Linear` and `nn.Conv2d`, in float32; a layer that
    stands in several places is converted once. What cannot be converted stays, and the report says why:
    layers that share a parameter with others or have hooks, convolutions with groups or with padding other
    than zeros, `pcsparse.nn.Linear` and other subclasses. Everything else, batch norms too, stays as it is,
    but `fit` may train it. Code that reads the weight of a converted layer past its `forward` cannot run
    afterwards: leave such layers out by `heads`. Layers in EIE's format have no gradients, so a model with
    them runs under `torch.no_grad()`.

    All layers are tried before anything changes. Each packed layer is compared with the one that it was made
    of, on an input that `evaluate` gave it, or random ones. Whatever is raised, by `fit` and `evaluate` too,
    the model is then as it was, weights and statistics included: a copy of its state is held meanwhile.
    Only what `fit` registered anew stays.

    Args:
        model: on the device where it runs.
        method: "eie" or "2:4" with settings as they are by default, or `EIESettings` or `TwoFourSettings`.
        heads: names of modules, each for itself and all below it; or a function of the name and the layer;
            None for all layers of the model.
        evaluate: model to a figure of merit. It runs without gradients, with the model in evaluation mode.
        fit: trains the model that it is given, in place, with an optimiser that it makes anew. Modules are in
            the mode in which they came.
        fit_shared: the same for shared values, EIE only; `fit` if None. The gradient of a centroid is the sum
            of those of its weights, so plain gradient descent wants a lower learning rate there.
        with_dense_control: also train a copy of the dense model as often, without pruning, and evaluate it:
            what of the gain is due to more training alone. Needs `fit` and `evaluate`.
        mode: of the packed layers, see `EIELinear`. In mode "auto" layers in EIE's format measure their
            layout, too, on an item or some patches that `evaluate` gave them.

    Returns:
        Bytes by layer, accuracy by stage, what was left dense and why.

    Raises:
        RangeError: another method or mode, a head that does not exist or holds no such layer, a density of a
            layer that is not converted, a weight that is not finite, a matrix that the format cannot hold, a
            control without `fit` and `evaluate`.
        UnsupportedError: nothing can be converted; mode "sparse" on a device without kernels.
        FormatError: a packed layer computes something else than the layer that it was made of.

    Source: Deep Compression (Han et al., ICLR 2016); EIE (ISCA 2016); arXiv 2104.08378 for 2:4.
    """
    recipe = _recipe(method)
    if mode not in get_args(Mode):
        raise RangeError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if fit_shared is not None and not recipe.shares:
        raise RangeError("fit_shared trains shared values, and 2:4 has none; give fit alone")
    if with_dense_control and (evaluate is None or (fit is None and fit_shared is None)):
        raise RangeError("a dense control is trained and evaluated as the model is; give fit and evaluate")
    layers, skipped = find_layers(model, heads, recipe.refusal)
    recipe.check(layers)
    ways = [_trial(layer, recipe, mode) for layer in layers]
    run = Run(model, layers, evaluate, fit, fit_shared)
    before = Before(model, layers)
    try:
        inputs = Inputs(layers)
        try:
            run.measure("dense")
        finally:
            inputs.stop()
        if with_dense_control:
            run.control(with_shared=recipe.shares)
        packed = [layer.around(made) for layer, made in zip(layers, recipe.make(layers, run), strict=True)]
        for layer, module, way in zip(layers, packed, ways, strict=True):
            module.mode = way
            check_packed(layer, module, inputs.of(layer))
            if mode == "auto" and way == "sparse" and not isinstance(module, SemiStructuredLinear):
                module.choose_layout(inputs.of(layer)[:1])
        # only now, when nothing can be refused any more
        for layer, module in zip(layers, packed, strict=True):
            module.mode = mode
            module.release_dense()
            layer.put(module)
        run.measure("packed")
        reports = tuple(report_of(layer, module) for layer, module in zip(layers, packed, strict=True))
    except BaseException:
        before.restore()
        raise
    return HeadsReport(recipe.method, reports, skipped, tuple(run.stages))


def _recipe(method: Method | EIESettings | TwoFourSettings) -> Recipe:
    match method:
        case EIESettings():
            return EIERecipe(method)
        case TwoFourSettings():
            return TwoFourRecipe(method)
        case "eie":
            return EIERecipe(EIESettings())
        case "2:4":
            return TwoFourRecipe(TwoFourSettings())
    raise RangeError(f"method must be 'eie', '2:4', EIESettings or TwoFourSettings, got {method!r}")


def _trial(layer: HeadLayer, recipe: Recipe, mode: Mode) -> Way:
    """See before training that a layer can be packed and run; which product it can take."""
    try:
        bias = layer.module.bias
        if bias is not None and not bool(bias.isfinite().all()):
            raise RangeError("a bias is not finite; look for what made it so")
        packed = layer.around(recipe.trial(layer))
    except RangeError as error:
        raise RangeError(f"{layer.name}: {error}") from error
    packed.mode = "sparse"
    try:
        with torch.no_grad():
            packed(Inputs(()).of(layer))
    except (UnsupportedError, DeviceError):
        if mode == "sparse":
            raise
        return "dense"
    return "sparse"

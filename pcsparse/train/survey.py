"""A look at the data: how often each class occurs, what the clouds are like, whether validation can tell."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcsparse.data.collate import SweepSource, VoxelSettings
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.errors import FormatError

# sweeps looked at for class shares and for the input spec, evenly spread over the set
_N_SURVEYED = 32


@dataclass(frozen=True)
class Survey:
    """What a look at the training set gives before the first step.

    Attributes:
        counts: (n_classes,) int64, points of each class.
        input_spec: of the clouds.
    """

    counts: Tensor
    input_spec: InputSpec


def check_validation(source: SweepSource, voxels: VoxelSettings) -> None:
    """Read validation sweeps up to the first with a labelled point that the network is shown.

    Args:
        source: of validation.
        voxels: crop and least range decide what is shown.

    Raises:
        FormatError: there is none; the mIoU of every model would be 0.
    """
    name = "none"
    for index in range(len(source)):
        sweep = source[index]
        if sweep.targets is not None and bool((sweep.targets[voxels.keeps(sweep.points)] >= 0).any()):
            return
        name = sweep.name if index == 0 else name
    raise FormatError(
        f"the {len(source)} sweeps of validation (first: {name}) have not one labelled point that is shown "
        "(crop and min_range leave points out); validate on labelled sweeps, or on none: data.val=null, or "
        "validate_every=0"
    )


def survey_of(source: SweepSource, n_classes: int) -> Survey:
    """Look at some sweeps of a training set.

    Raises:
        FormatError: one of them has no labels.
    """
    counts = np.zeros(n_classes, dtype=np.int64)
    clouds = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(_N_SURVEYED, len(source))).astype(int)):
        sweep = source[int(index)]
        if sweep.targets is None:
            raise FormatError(f"{sweep.name} has no labels, and training needs them; is it a test split?")
        counts += np.bincount(sweep.targets[sweep.targets >= 0], minlength=n_classes)
        clouds.append(CloudFacts.of(sweep.points, sweep.intensity))
    return Survey(torch.from_numpy(counts), InputSpec.of(clouds))

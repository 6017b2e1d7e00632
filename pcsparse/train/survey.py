"""A look at the training set: how often each class occurs, and what its clouds are like."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcsparse.data.collate import SweepSource
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

"""Cards of the networks that a compression writes, and what its files hold."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open
from torch import nn

import pcsparse
from pcsparse.programs.compress_job import Job
from pcsparse.train.model_file import ModelCard, arch_of


def card_of(job: Job, model: nn.Module, notes: Mapping[str, str]) -> ModelCard:
    """The card of the whole network for one that was made of it.

    Args:
        job: whose network.
        model: smaller.
        notes: for its provenance.
    """
    made = {
        **job.card.provenance,
        "compressed_by": f"pcsparse {pcsparse.__version__}",
        "compressed_from": job.weights.name,
        **notes,
    }
    return replace(job.card, arch=arch_of(model, len(job.card.classes)), metrics={}, provenance=made)


def file_type(weights: Path) -> str:
    """Either "float16" or "float32": of the floats in a file of weights."""
    with safe_open(weights, framework="pt") as file:
        # slices, so that nothing is read
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return "float16" if "F16" in kinds else "float32"

"""What a training of the default models is asked for."""

from dataclasses import dataclass
from pathlib import Path

from pcsparse.errors import RangeError
from pcsparse.programs.default_recipes import RECIPES, Recipe

RESERVE = 15.0
"""Seconds for the last checkpoint and the export, which come after the training."""


@dataclass(frozen=True)
class DefaultSettings:
    """What is asked for.

    Attributes:
        out: folder for NAME.safetensors, NAME.json and NAME.log.csv.
        work: folder for sweeps and runs; a second start with the same one goes on.
        seconds: from the start to the end of all.
        recipes: what to train, all at once.
        device: of the networks.
        renderers: processes that render, for all models together.
        loaders: processes that augment, for all models together.
        enough: sweeps that a training waits for before it starts.
        enough_seconds: when they must be there at the latest.
        render_seconds: when rendering ends at the latest.
        record: see `FitSettings`.
    """

    out: Path
    work: Path
    seconds: float
    recipes: tuple[Recipe, ...] = RECIPES
    device: str = "cuda"
    renderers: int = 12
    loaders: int = 13
    enough: int = 96
    render_seconds: float = 330.0
    record: str = "auto"
    enough_seconds: float = 240.0

    def __post_init__(self) -> None:
        if (
            self.seconds <= RESERVE
            or self.renderers < len(self.recipes)
            or min(self.loaders, self.enough) < 1
            or not self.enough_seconds > 0
        ):
            raise RangeError(
                f"training needs more than {RESERVE:g} s, a renderer a model, a loader, a sweep and "
                f"time to render it, got {self.seconds:g}, {self.renderers}, {self.loaders}, {self.enough} "
                f"and {self.enough_seconds:g} s"
            )

    def pool(self, recipe: Recipe) -> Path:
        """Where the sweeps of a model lie."""
        return self.work / "pool" / recipe.name

    def run(self, recipe: Recipe) -> Path:
        """The folder of its run."""
        return self.work / "runs" / recipe.name

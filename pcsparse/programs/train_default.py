"""Trains the models that pcsparse brings, in one command that ends by the clock.

Simulated sweeps are rendered by some processes while others train on those that are there. Nothing beyond
torch, numpy, numba and safetensors is needed, so that a bare machine with a GPU will do.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pcsparse.data.synthetic.pool import RenderedSweeps, render, render_sample
from pcsparse.errors import PcsparseError, RangeError
from pcsparse.programs.default_recipes import RECIPES, Recipe, recipe_named, wanted_shares
from pcsparse.programs.train_default_part import TrainingJob, train

# seconds: for the last checkpoint and the export, which come after the training
_RESERVE = 15.0
# seconds between two looks at the processes, and between two exports of what is there
_LOOK, _EXPORT = 1.0, 45.0
# seconds before the end: too few for a training that failed to begin anew
_TOO_LATE = 60.0
_PRIORS = "bias moved from the class shares of the towns to the published ones of SemanticKITTI, fences left"
_PROGRAM = "pcsparse.programs.train_default"
# rendering gives way, by half, to the processes that feed the GPU
_NICE = 3


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

    def __post_init__(self) -> None:
        if (
            self.seconds <= _RESERVE
            or self.renderers < len(self.recipes)
            or min(self.loaders, self.enough) < 1
        ):
            raise RangeError(
                f"training needs more than {_RESERVE:g} s, a renderer a model, a loader and a sweep, got "
                f"{self.seconds:g}, {self.renderers}, {self.loaders} and {self.enough}"
            )

    def pool(self, recipe: Recipe) -> Path:
        """Where the sweeps of a model lie."""
        return self.work / "pool" / recipe.name

    def run(self, recipe: Recipe) -> Path:
        """The folder of its run."""
        return self.work / "runs" / recipe.name


def run(settings: DefaultSettings, arguments: Sequence[str]) -> int:
    """Render, train and export.

    Args:
        settings: what to do.
        arguments: the command line that describes it, for the processes.

    Returns:
        Exit status: 0, or 1 if a model is not there at the end.
    """
    began = time.monotonic()
    deadline = time.time() + settings.seconds
    settings.out.mkdir(parents=True, exist_ok=True)
    with _Processes(arguments) as processes:
        for recipe in settings.recipes:
            # the first of each compiles the caster for all
            processes.start("render", recipe, "0", str(_parts(settings)))
            processes.start("train", recipe, repr(deadline - _RESERVE))
        exported, rest_started = 0.0, False
        while True:
            time.sleep(_LOOK)
            if time.time() < deadline - _TOO_LATE:
                processes.restart_failed("train", repr(deadline - _RESERVE))
            if not processes.any("train"):
                break
            now = time.monotonic() - began
            if not rest_started and all(_n_rendered(settings, r) for r in settings.recipes):
                rest_started = True
                for part in range(1, _parts(settings)):
                    for recipe in settings.recipes:
                        processes.start("render", recipe, str(part), str(_parts(settings)))
            if now > settings.render_seconds:
                processes.end("render")
            if now - exported > _EXPORT:
                exported = now
                _export(settings)
            if time.time() > deadline - _RESERVE / 3:
                break
    missing = _export(settings)
    for recipe in settings.recipes:
        print(f"{recipe.name}: {_n_rendered(settings, recipe)} sweeps rendered", flush=True)
    print(f"ended after {time.monotonic() - began:.0f} s" + (f"; missing: {missing}" if missing else ""))
    return 1 if missing else 0


def _parts(settings: DefaultSettings) -> int:
    return max(settings.renderers // len(settings.recipes), 1)


def _n_rendered(settings: DefaultSettings, recipe: Recipe) -> int:
    return len(RenderedSweeps(recipe.pool, settings.pool(recipe)).present)


@dataclass(frozen=True)
class _Running:
    verb: str
    recipe: Recipe
    again: bool
    process: subprocess.Popen[bytes]


class _Processes:
    """Processes of this program, by what they do; they end when the context is left.

    Args:
        arguments: the command line that all of them share.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._running: list[_Running] = []

    def start(self, verb: str, recipe: Recipe, *more: str, again: bool = False) -> None:
        """Start one that does `verb` for a recipe; `again` one that failed, without CUDA graphs."""
        # one thread each: there are as many processes as cores
        env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        changed = ["--record", "never"] if again else []
        part = ["--part", verb, recipe.name, *more]
        command = [sys.executable, "-m", _PROGRAM, *self._arguments, *changed, *part]
        self._running.append(_Running(verb, recipe, again, subprocess.Popen(command, env=env)))

    def any(self, verb: str) -> bool:
        """Whether one of them runs."""
        return any(one.verb == verb and one.process.poll() is None for one in self._running)

    def restart_failed(self, verb: str, *more: str) -> None:
        """Start those of `verb` that failed once again, once."""
        tried = {one.recipe.name for one in self._running if one.again}
        for one in list(self._running):
            failed = one.verb == verb and one.process.poll() not in (None, 0)
            if failed and one.recipe.name not in tried:
                print(f"{one.recipe.name}: {verb} failed, once more without CUDA graphs", flush=True)
                self.start(verb, one.recipe, *more, again=True)

    def end(self, verb: str) -> None:
        """Ask those of `verb` to end."""
        for one in self._running:
            if one.verb == verb and one.process.poll() is None:
                one.process.terminate()

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *error: object) -> None:
        self.end("render")
        # a training ends with a checkpoint, which takes a moment
        self.end("train")
        ends = time.monotonic() + _RESERVE / 2
        for one in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(ends - time.monotonic(), 0.1))
            one.process.kill()


def _export(settings: DefaultSettings) -> list[str]:
    """Write what the runs have stored as default models; returns the names of those that have nothing."""
    from pcsparse.whole_file import write_whole

    missing = []
    for recipe in settings.recipes:
        folder = settings.run(recipe)
        if not (folder / "model.safetensors").is_file():
            missing.append(recipe.name)
            continue
        try:
            _export_one(settings, recipe, folder)
        except PcsparseError as error:
            # the run replaces both files one after the other, and the next look may find a pair
            print(f"{recipe.name}: not exported now: {error}", flush=True)
            if not (settings.out / f"{recipe.name}.safetensors").is_file():
                missing.append(recipe.name)
        with contextlib.suppress(OSError):
            write_whole(settings.out / f"{recipe.name}.log.csv", (folder / "log.csv").read_bytes())
    return missing


def _export_one(settings: DefaultSettings, recipe: Recipe, source: Path) -> None:
    """Move a model to the class shares of recorded streets, and write it in float16."""
    from pcsparse.train.model_file import load_model, save_model
    from pcsparse.train.priors import shift_priors

    model, card = load_model(source)
    if "priors" not in card.provenance:
        trained = RenderedSweeps(recipe.pool, settings.pool(recipe)).class_shares()
        shift_priors(model, trained, wanted_shares(trained))
        card = replace(card, provenance={**card.provenance, "priors": _PRIORS})
    save_model(settings.out / f"{recipe.name}.safetensors", model, card, half=True)


def _export_again(settings: DefaultSettings, source: Path) -> int:
    """As at the end of a training, from models that one has left without its sweeps."""
    for recipe in settings.recipes:
        render_sample(recipe.pool, settings.pool(recipe))
        settings.out.mkdir(parents=True, exist_ok=True)
        _export_one(settings, recipe, source / f"{recipe.name}.safetensors")
    return 0


def _parser() -> argparse.ArgumentParser:
    given = DefaultSettings(Path(), Path(), 1000.0)
    parser = argparse.ArgumentParser(prog="train_default.py", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the models")
    parser.add_argument("--work", type=Path, required=True, help="folder for sweeps and runs")
    parser.add_argument("--seconds", type=float, required=True, help="until all is written")
    parser.add_argument("--models", nargs="+", default=[recipe.name for recipe in RECIPES], metavar="NAME")
    parser.add_argument("--device", default=given.device)
    parser.add_argument("--renderers", type=int, default=given.renderers)
    parser.add_argument("--loaders", type=int, default=given.loaders, help="for all models together")
    parser.add_argument("--enough", type=int, default=given.enough, help="sweeps before a training starts")
    parser.add_argument("--render-seconds", type=float, default=given.render_seconds)
    parser.add_argument("--record", default=given.record, help="CUDA graphs: auto, always or never")
    parser.add_argument("--towns", type=int, help="of each pool, in place of the recipe's")
    parser.add_argument("--sweeps", type=int, help="of each town")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--width", type=float, help="of the network")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER",
        help="train nothing: export the unshifted models of a folder, after a look at some sweeps",
    )  # fmt: skip
    parser.add_argument("--part", nargs="+", default=[], help=argparse.SUPPRESS)
    return parser


def _recipes(given: argparse.Namespace) -> tuple[Recipe, ...]:
    recipes = []
    for recipe in map(recipe_named, given.models):
        plan = replace(
            recipe.pool, towns=given.towns or recipe.pool.towns, sweeps=given.sweeps or recipe.pool.sweeps
        )
        recipes.append(
            replace(
                recipe,
                pool=plan,
                batch_size=given.batch_size or recipe.batch_size,
                width=given.width or recipe.width,
            )
        )
    return tuple(recipes)


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it."""
    given = _parser().parse_args(arguments)
    settings = DefaultSettings(
        given.out, given.work, given.seconds, _recipes(given), given.device, given.renderers, given.loaders,
        given.enough, given.render_seconds, given.record,
    )  # fmt: skip
    match given.part:
        case []:
            again = given.source is not None
            return _export_again(settings, given.source) if again else run(settings, arguments)
        case ["render", name, part, parts]:
            os.nice(_NICE)
            recipe = _named(settings, name)
            render(recipe.pool, settings.pool(recipe), int(part), int(parts))
        case ["train", name, deadline]:
            recipe = _named(settings, name)
            job = TrainingJob(
                recipe, settings.pool(recipe), settings.run(recipe), settings.device,
                max(round(settings.loaders * recipe.loader_share), 1),
                settings.enough, settings.record,
            )  # fmt: skip
            train(job, float(deadline))
    return 0


def _named(settings: DefaultSettings, name: str) -> Recipe:
    return next(recipe for recipe in settings.recipes if recipe.name == name)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

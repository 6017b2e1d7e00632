"""Trains the models that pcsparse brings, in one command that ends by the clock.

Simulated sweeps are rendered by some processes while others train on those that are there. Nothing beyond
torch, numpy, numba and safetensors is needed, so that a bare machine with a GPU will do.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcsparse.data.synthetic.pool import RenderedSweeps, check_pool, render, render_sample
from pcsparse.errors import PcsparseError, RangeError
from pcsparse.programs.default_recipes import RECIPES, Recipe, recipe_named, wanted_shares
from pcsparse.programs.train_default_part import TrainingJob, train
from pcsparse.programs.train_default_processes import Failure, Processes
from pcsparse.programs.train_default_settings import RESERVE, DefaultSettings
from pcsparse.train.survey import survey_of

# seconds between two looks at the processes, and between two exports of what is there
_LOOK, _EXPORT = 1.0, 45.0
# seconds before the end: too few for a training that failed to begin anew
_TOO_LATE = 60.0
_PRIORS = "bias moved from the class shares of the towns to the published ones of SemanticKITTI, fences left"
# times that a renderer which failed is started again
_RENDER_AGAIN = 3
# towns that the first sweeps come from: as many as a training looks at for weights and input spec
_FIRST_TOWNS = 32
# rendering gives way, by half, to the processes that feed the GPU
_NICE = 3


def run(settings: DefaultSettings, arguments: Sequence[str]) -> int:
    """Render, train and export.

    Args:
        settings: what to do.
        arguments: the command line that describes it, for the processes.

    Returns:
        Exit status: 0, or 1 if a model is not there at the end.

    Raises:
        FormatError: a pool was rendered by another version of the simulator, or with other settings.
        RangeError: renderers failed, or took too long, before there was enough to train on.
    """
    began = time.monotonic()
    deadline = time.time() + settings.seconds
    settings.out.mkdir(parents=True, exist_ok=True)
    for recipe in settings.recipes:
        check_pool(recipe.pool, settings.pool(recipe))
    try:
        with Processes(arguments, settings.work / "logs", RESERVE / 2) as processes:
            _watch(settings, processes, deadline)
    finally:
        missing = _export(settings)
    for recipe in settings.recipes:
        print(f"{recipe.name}: {_n_rendered(settings, recipe)} sweeps rendered", flush=True)
    print(f"ended after {time.monotonic() - began:.0f} s" + (f"; missing: {missing}" if missing else ""))
    return 1 if missing else 0


def _watch(settings: DefaultSettings, processes: Processes, deadline: float) -> None:
    """Start what is needed and look after it until the trainings end, or `deadline` (Unix time) is near."""
    for recipe in settings.recipes:
        # the first of each compiles the caster for all
        _start_renderer(settings, processes, recipe, 0)
        processes.start("train", recipe.name, repr(deadline - RESERVE))
    began, exported, rest_started = time.monotonic(), 0.0, False
    failures: list[Failure] = []
    while True:
        time.sleep(_LOOK)
        lost = processes.restart_failed("render", _RENDER_AGAIN)
        times = 1 if time.time() < deadline - _TOO_LATE else 0
        lost += processes.restart_failed("train", times, "--record", "never")
        now = time.monotonic() - began
        failures += lost
        _tell(processes, lost, "train")
        _judge(settings, processes, failures, now)
        _tell(processes, lost, "render")
        if not processes.left("train"):
            return
        if not rest_started and all(_n_rendered(settings, r) for r in settings.recipes):
            rest_started = True
            for part in range(1, _parts(settings)):
                for recipe in settings.recipes:
                    _start_renderer(settings, processes, recipe, part)
        if now > settings.render_seconds:
            processes.end("render")
        if now - exported > _EXPORT:
            exported = now
            _export(settings)
        if time.time() > deadline - RESERVE / 3:
            return


def _start_renderer(settings: DefaultSettings, processes: Processes, recipe: Recipe, part: int) -> None:
    parts = str(_parts(settings))
    processes.start("render", recipe.name, str(part), parts, log=f"{recipe.name}-render-{part}")


def _judge(settings: DefaultSettings, processes: Processes, failures: list[Failure], now: float) -> None:
    """Raise where failed renderers leave a training without its sweeps, or these are late.

    Raises:
        RangeError: fewer sweeps than are enough, and no hope of more in time; the text names the logs.
    """
    told = {failure.recipe: failure.text for failure in failures if failure.verb == "render"}
    for recipe in settings.recipes:
        n, wanted = _n_rendered(settings, recipe), min(settings.enough, len(recipe.pool))
        if n >= wanted:
            continue
        if recipe.name in told and not processes.left("render", recipe.name):
            raise RangeError(f"{recipe.name} has {n} of {wanted} sweeps: {told[recipe.name]}")
        if now > settings.enough_seconds:
            raise RangeError(
                f"{recipe.name} has {n} of {wanted} sweeps after {now:.0f} s; give it more with "
                f"--enough-seconds, or start with fewer (--enough); the renderers' logs: {processes.logs}"
            )


def _tell(processes: Processes, lost: list[Failure], verb: str) -> None:
    """Say what failed for good of what does `verb`, and whether others go on."""
    for failure in lost:
        if failure.verb != verb:
            continue
        if verb == "train":
            rest = "the others go on" if processes.left("train") else "no training is left"
            print(f"training failed: {failure.text}; what it stored last is exported; {rest}", flush=True)
        else:
            left = processes.left("render", failure.recipe)
            rest = "the others go on" if left else "no renderer is left, but there are enough sweeps"
            print(f"{failure.text}; {rest}", flush=True)


def _parts(settings: DefaultSettings) -> int:
    return max(settings.renderers // len(settings.recipes), 1)


def _n_rendered(settings: DefaultSettings, recipe: Recipe) -> int:
    return len(RenderedSweeps(recipe.pool, settings.pool(recipe)).present)


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
        sweeps = RenderedSweeps(recipe.pool, settings.pool(recipe))
        trained = sweeps.class_shares()
        shift_priors(model, trained, wanted_shares(trained))
        # the training saw the first towns only
        spec = survey_of(sweeps, sweeps.label_map.n_classes).input_spec
        card = replace(card, input_spec=spec, provenance={**card.provenance, "priors": _PRIORS})
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
    parser.add_argument(
        "--enough-seconds", type=float, default=given.enough_seconds, help="when they must be there"
    )
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
        plan = replace(recipe.pool, **_asked(given, "towns", "sweeps"))
        recipes.append(replace(recipe, pool=plan, **_asked(given, "batch_size", "width")))
    return tuple(recipes)


def _asked(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that stand on the command line."""
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it."""
    given = _parser().parse_args(arguments)
    settings = DefaultSettings(
        given.out, given.work, given.seconds, _recipes(given), given.device, given.renderers, given.loaders,
        given.enough, given.render_seconds, given.record, given.enough_seconds,
    )  # fmt: skip
    match given.part:
        case []:
            again = given.source is not None
            return _export_again(settings, given.source) if again else run(settings, arguments)
        case ["render", name, part, parts]:
            os.nice(_NICE)
            recipe = _named(settings, name)
            render(recipe.pool, settings.pool(recipe), int(part), int(parts), first_towns=_FIRST_TOWNS)
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

"""The `pcsparse` console command: parses arguments, calls a program, turns errors into one line.

pcsparse train data=synthetic data.root=DIR        (Hydra: any key of TrainSettings)
pcsparse compress data.root=DIR budget.share=0.5   (Hydra: any key of CompressSettings)
pcsparse evaluate data.root=DIR checkpoint=runs/x  (Hydra: any key of EvaluateSettings)
pcsparse infer FILE|DIR --out out
pcsparse inspect FILE|DIR
pcsparse view FILE|DIR --out page.html
pcsparse synth OUT
pcsparse tune --model RUN --out tuned.json
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pcsparse import __version__
from pcsparse.errors import PcsparseError

_BAD_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: verb first; those of the process if None.

    Returns:
        Exit status: 0, 2 for an error that is explained on stderr, or what the program says.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="pcsparse",
        description="3D perception on point clouds, built around sparse 3D convolution. VERB is one of\n\n"
        + "\n".join(f"  {verb:8}  {does}" for verb, (_, does) in _VERBS.items()),
        epilog="`pcsparse VERB --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=tuple(_VERBS), metavar="VERB", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"pcsparse {__version__}")
    # all behind the verb is the verb's own
    verb = parser.parse_args(given[:1]).verb
    try:
        return _VERBS[verb][0](given[1:])
    except (PcsparseError, OSError) as error:
        return _told(verb, error)


def _told(verb: str, error: PcsparseError | OSError) -> int:
    """Say in a line what was wrong, and in another what has gone wrong with it; a status."""
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.filename is None):
        # nobody reads any more, or nothing says what it was about
        raise error
    print(f"pcsparse {verb}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    return _BAD_USE


def _train(arguments: list[str]) -> int:
    from pcsparse.programs import train

    return _with_hydra("train", arguments, train.run)


def _compress(arguments: list[str]) -> int:
    from pcsparse.programs import compress

    return _with_hydra("compress", arguments, compress.run)


def _evaluate(arguments: list[str]) -> int:
    from pcsparse.programs import evaluate

    return _with_hydra("evaluate", arguments, evaluate.run)


def _with_hydra(name: str, arguments: list[str], run: Callable[[Any], int]) -> int:
    """Let Hydra compose the settings of a program; several runs (`-m`) give the worst status."""
    from pcsparse import config, resources
    from pcsparse.checks import require_extra

    hydra = require_extra("hydra", "train")
    omegaconf = require_extra("omegaconf", "train")
    config.register()
    statuses: list[int] = []

    def task(raw: Any) -> None:
        try:
            statuses.append(run(omegaconf.OmegaConf.to_object(raw)))
        except omegaconf.errors.MissingMandatoryValue as error:
            key = error.full_key
            print(f"pcsparse {name}: {key} has no value; give one with {key}=VALUE", file=sys.stderr)
            statuses.append(_BAD_USE)
        except (PcsparseError, OSError) as error:
            # Hydra would bury the message under a traceback
            statuses.append(_told(name, error))

    path = str(resources.configs_dir())
    before = sys.argv
    sys.argv = [f"pcsparse {name}", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=path, config_name=name)(task)()
    finally:
        sys.argv = before
    return max(statuses, default=0)


def _infer(arguments: list[str]) -> int:
    from pcsparse.config import InferSettings
    from pcsparse.programs import infer

    parser = argparse.ArgumentParser(
        prog="pcsparse infer",
        description="Predict the class of every point of .bin .npy .npz .pcd .ply .las .laz .e57, "
        "Argoverse 2 .feather, and text .xyz .csv .txt files.",
    )
    parser.add_argument("sources", nargs="+", help="files, folders or patterns")
    parser.add_argument(
        "--out", default="out", help="folder for NAME.label (raw ids), NAME.png and NAME.html"
    )
    parser.add_argument(
        "--format",
        dest="formats",
        default="label",
        help="what to write, one or more with commas: label (default), same (the input with class and "
        "confidence as columns), or such a file as bin, npy, npz, pcd, ply, las, laz, e57, feather, csv",
    )
    _add_model(parser)
    _add_reading(parser)
    parser.add_argument(
        "--invalid", choices=("drop", "raise", "keep"), default="drop", help="what to do with NaN points"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--tuned", help="table of `pcsparse tune` to take the plans from (default: the rules)"
    )
    parser.add_argument(
        "--no-picture", dest="picture", action="store_false", help="write labels only: no picture, no page"
    )
    parser.add_argument("--no-page", dest="page", action="store_false", help="write no HTML page")
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave files alone whose outputs are there"
    )
    given = vars(parser.parse_args(arguments))
    given["sources"], given["formats"] = tuple(given["sources"]), tuple(given["formats"].split(","))
    return infer.run(InferSettings(**given))


def _inspect(arguments: list[str]) -> int:
    from pcsparse.config import InspectSettings
    from pcsparse.programs import inspect

    parser = argparse.ArgumentParser(
        prog="pcsparse inspect",
        description="Say what a point file holds, why a model would see nothing in it, and which flag of "
        "`pcsparse infer` mends that. Exit status: 0 fine, 1 something is wrong, 2 a file cannot be read.",
    )
    parser.add_argument("sources", nargs="+", help="files, folders or patterns")
    _add_model(parser)
    _add_reading(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a file")
    given = vars(parser.parse_args(arguments))
    return inspect.run(InspectSettings(**{**given, "sources": tuple(given["sources"])}))


def _view(arguments: list[str]) -> int:
    from pcsparse.config import ViewSettings
    from pcsparse.programs import view

    parser = argparse.ArgumentParser(
        prog="pcsparse view",
        description="Write point files as one HTML page that opens in any browser, without a network. "
        "Labels, predictions, boxes and poses that lie where KITTI, SemanticKITTI, Argoverse 2 and nuScenes "
        "keep them are found and shown too.",
    )
    parser.add_argument("sources", nargs="+", help="files, folders or patterns; several make a sequence")
    parser.add_argument("--out", default="page.html", help="the page (default: page.html)")
    parser.add_argument("--labels", help="a .label file, or a folder of NAME.label")
    parser.add_argument(
        "--predictions",
        help="likewise; default: the columns that `pcsparse infer --format` adds, where there are any",
    )
    parser.add_argument(
        "--boxes",
        help="a list in .json or .csv (x,y,z,length,width,height,yaw,name,score), a label_2 .txt of KITTI, "
        "Argoverse 2's annotations.feather, nuScenes' folder of tables, or a folder of NAME.json .csv .txt",
    )
    parser.add_argument("--poses", help="KITTI's poses.txt, or Argoverse 2's city_SE3_egovehicle.feather")
    parser.add_argument("--alone", action="store_true", help="points alone, whatever lies beside them")
    parser.add_argument(
        "--label-set",
        default="semantickitti",
        help="what class ids mean: its name, a labels.toml, or a model (its run, weights or card)",
    )
    parser.add_argument("--title", help="of the page (default: the name of the first file)")
    parser.add_argument("--light", action="store_true", help="open in light colours")
    parser.add_argument(
        "--png", dest="picture", action="store_true", help="draw the first sweep as a PNG too"
    )
    parser.add_argument("--every", type=int, default=1, help="keep one point in so many (default: all)")
    parser.add_argument("--columns", type=int, help="numbers a point in .bin files (default: inferred)")
    parser.add_argument("--dtype", help="type of the numbers in .bin files (default: float32)")
    parser.add_argument("--intensity-scale", type=float, help="what intensity 1.0 is in the files")
    parser.add_argument("--scale", type=float, default=1.0, help="metres a unit: 0.001 for millimetres")
    parser.add_argument("--up", default="z", help="what points up, as for infer")
    given = vars(parser.parse_args(arguments))
    return view.run(ViewSettings(**{**given, "sources": tuple(given["sources"])}))


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Which model: for `infer` to use and for `inspect` to compare with."""
    parser.add_argument("--checkpoint", help="folder of a run, or a .safetensors file")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="one of the models that pcsparse brings (default: the one whose sensor is most like the file's)",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Options on how files are read and placed, which `infer` and `inspect` share."""
    parser.add_argument("--columns", type=int, help="numbers a point in .bin files (default: inferred)")
    parser.add_argument(
        "--dtype", help="type of the numbers in .bin files, such as float16 (default: float32)"
    )
    parser.add_argument("--intensity-scale", type=float, help="what intensity 1.0 is in the files")
    parser.add_argument("--voxel-size", type=float, help="metres (default: the model's own)")
    parser.add_argument("--scale", type=float, default=1.0, help="metres a unit: 0.001 for millimetres")
    parser.add_argument(
        "--up", default="z", help="what points up: z, y, x, -z, -y, -x, or a direction; write --up=-y"
    )
    parser.add_argument(
        "--origin",
        type=_vector,
        default=(0.0, 0.0, 0.0),
        help="X,Y,Z that becomes 0,0,0: metres in the file's own (world) coordinates, after --scale and "
        "--up; write --origin=-3,4,0",
    )
    parser.add_argument("--min-range", type=float, default=0.0, help="metres; nearer points get no class")
    parser.add_argument("--max-range", type=float, help="metres; farther points get no class")
    parser.add_argument("--z-offset", type=float, default=0.0, help="metres added to every z")
    parser.add_argument(
        "--tile",
        type=float,
        help="metres: predict in squares of this size, each on its own ground (default: 60 for .las and .laz "
        "of more than 4 million points; 0: never)",
    )


def _vector(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"X,Y,Z are three numbers with commas, got {text!r}") from error
    return x, y, z


def _synth(arguments: list[str]) -> int:
    from pcsparse.programs import synth

    return synth.main(arguments)


def _bench(arguments: list[str]) -> int:
    from pcsparse.programs import bench

    return bench.main(arguments, program="pcsparse bench")


def _tune(arguments: list[str]) -> int:
    from pcsparse.programs import tune

    return tune.main(arguments)


_VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "infer": (_infer, "the class of every point of a file"),
    "inspect": (_inspect, "what a file holds, and what a model would see in it"),
    "view": (_view, "files as one HTML page"),
    "synth": (_synth, "simulated sweeps with labels"),
    "train": (_train, "a network on labelled sweeps"),
    "evaluate": (_evaluate, "a network's mIoU, and its predictions"),
    "compress": (_compress, "a network made smaller, to a budget"),
    "tune": (_tune, "the fastest plans of a model on this machine"),
    "bench": (_bench, "times of kernels, layers and networks"),
}

if __name__ == "__main__":
    sys.exit(main())

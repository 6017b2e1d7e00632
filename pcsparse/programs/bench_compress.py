"""Command line of the studies of compression: one verb a study, each in a file of its own."""

import argparse
from collections.abc import Sequence
from importlib import import_module

# verb -> what it shows; the module is programs/bench_compress_VERB.py and is loaded when it is asked for
STUDIES: dict[str, str] = {
    "lecture": "AMC on a small dense CNN at half of its multiply-adds",
    "offsets": "kernel offsets dropped: whether milliseconds fall as pairs do",
    "quarter": "MinkUNet at a quarter of its milliseconds, with controls",
    "voxels": "milliseconds against pairs where a share of the rows is convolved",
    "search": "six searches at equal numbers of evaluations, judged on other streets",
}


def main(arguments: Sequence[str]) -> int:
    """Parse the verb, and hand what follows to `main` of its module.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        Exit status of the study.
    """
    given = list(arguments)
    lines = "\n".join(f"  {verb:<10} {text}" for verb, text in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="bench_compress.py",
        description=f"What compression is worth, measured; `STUDY --help` tells more.\n\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=sorted(STUDIES))
    study = parser.parse_args(given[:1]).study
    return int(import_module(f"pcsparse.programs.bench_compress_{study}").main(given[1:]))

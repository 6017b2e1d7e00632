"""The file that a command line names for results, checked before any work is done for it."""

import argparse
import os
from pathlib import Path


def output_file(text: str) -> Path:
    """As the `type` of an option of argparse.

    Args:
        text: where the file is to be; its folder may be made yet.

    Returns:
        The path.

    Raises:
        argparse.ArgumentTypeError: a folder has this name, or nothing can be written there.
    """
    path = Path(text)
    try:
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{text} is a folder; name a file in it")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except PermissionError as error:
        raise argparse.ArgumentTypeError(
            f"{text} cannot be written: no permission to look for {error.filename}"
        ) from error
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: no permission to write in {folder}")
    return path

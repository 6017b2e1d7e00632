"""Which peers are there: plain torch always, others where they can be imported."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from pcsparse.bench.library import Library
from pcsparse.bench.map_library import plain_torch


@dataclass(frozen=True)
class Peers:
    """What was found.

    Attributes:
        libraries: to compare with, plain torch first.
        absent: (name, why), so that a table without them says so.
    """

    libraries: tuple[Library, ...]
    absent: tuple[tuple[str, str], ...]


def _spconv() -> Library:
    from pcsparse.bench.peer_spconv import Spconv

    return Spconv()


def _torchsparse() -> Library:
    from pcsparse.bench.peer_torchsparse import TorchSparse

    return TorchSparse()


def _minkowski() -> Library:
    from pcsparse.bench.peer_minkowski import Minkowski

    return Minkowski()


_OPTIONAL: tuple[tuple[str, Callable[[], Library]], ...] = (
    ("spconv", _spconv),
    ("TorchSparse", _torchsparse),
    ("MinkowskiEngine", _minkowski),
)


def find_peers() -> Peers:
    """Import what can be imported."""
    found: list[Library] = [plain_torch()]
    absent = []
    for name, make in _OPTIONAL:
        try:
            # they have an older Python and an older torch in mind
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(make())
        # a wheel of another torch fails in many ways at its import
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            absent.append((name, str(error).partition("\n")[0]))
    return Peers(tuple(found), tuple(absent))

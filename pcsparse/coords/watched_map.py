"""WatchedMap: a kernel map that writes down what is derived from it, so that its cost can be measured."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from weakref import ref

import torch

from pcsparse.coords.kernel_map import Form, KernelMap
from pcsparse.coords.map_forms import Pairs

TRANSPOSED = "transposed"


@dataclass(frozen=True)
class Derived:
    """Something that is made of a map once, and kept with it.

    Attributes:
        turned: whether it is made of the map's transpose.
        name: as in `KernelMap.kept`; `TRANSPOSED` for the transpose itself.
    """

    turned: bool
    name: Hashable

    def __str__(self) -> str:
        """For a report."""
        name = self.name if isinstance(self.name, str) else str(self.name[0] if self.name else "")  # type: ignore[index]
        return f"{name} of the transpose" if self.turned else name


class WatchedMap(KernelMap):
    """A copy of a map, with nothing derived, that remembers how each derived form was made.

    Who holds the copy keeps its transpose, but the transpose does not keep the copy.

    Args:
        kmap: the map.
        seen: where to write; a new table if None. What is called there makes the form again, and only that
            form: what it is made of is there already.
        turned: whether this is the transpose of the map that is watched.
    """

    seen: dict[Derived, Callable[[], object]]
    turned: bool

    def __init__(
        self,
        kmap: KernelMap,
        seen: dict[Derived, Callable[[], object]] | None = None,
        *,
        turned: bool = False,
    ) -> None:
        """Copy what the map was born with."""
        lists = isinstance(kmap.born, Pairs)
        super().__init__(
            kmap.relation,
            kmap.n_in,
            kmap.n_out,
            **{"pairs" if lists else "table": kmap.born},  # type: ignore[arg-type]
            symmetric=kmap.symmetric,
            reads_coarse=kmap.reads_coarse,
            monotone=kmap.monotone,
            distinct=kmap.distinct,
            checked=True,
        )
        self.__dict__.update(seen={} if seen is None else seen, turned=turned, _other=None)

    def taken(self) -> dict[Derived, Callable[[], object]]:
        """What is written down, which the map forgets; each entry keeps the map, and what it is made of.

        A map that is not asked for this refers to itself through `seen`, and lives until Python looks for
        such circles.
        """
        # the transpose alone does not keep the map that it may read
        made: dict[Derived, Callable[[], object]] = {
            derived: partial(_made_of, self, make) for derived, make in self.seen.items()
        }
        self.seen.clear()
        return made

    def kept(self, name: Hashable, make: Callable[[], Form]) -> Form:
        """See the base class."""
        if name not in self._derived:
            self.seen[Derived(self.turned, name)] = make
        return super().kept(name, make)

    def transposed(self) -> "WatchedMap":
        """See the base class."""
        known = self.__dict__["_other"]
        other: WatchedMap | None = known() if isinstance(known, ref) else known
        if other is None:
            self.seen[Derived(self.turned, TRANSPOSED)] = self._swapped
            other = WatchedMap(self._swapped(), self.seen, turned=not self.turned)
            other.__dict__["_other"] = ref(self)
            self.__dict__["_other"] = other
        return other


def _made_of(kmap: KernelMap, make: Callable[[], object]) -> object:
    """Make a form; `kmap` lives as long as who may ask for it."""
    return make()


def remade(make: Callable[[], object]) -> object:
    """Make a form again, as `KernelMap.kept` does."""
    with torch.inference_mode(False):
        return make()

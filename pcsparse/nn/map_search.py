"""Which kernel offsets are searched for a map that several layers read."""

from collections.abc import Iterable

from pcsparse.errors import ShapeError
from pcsparse.nn.conv import SparseConv


def search_together(convs: Iterable[SparseConv]) -> None:
    """Have the map that some convolutions read searched once, for the offsets that they keep together.

    A convolution alone cannot know which offsets the others will ask for, so the whole kernel is searched for
    the first one that comes. Models that know say so here; where a convolution of the map is forgotten, its
    results are right, and one more search is done.

    Args:
        convs: all readers of one map; they are changed in place.

    Raises:
        ShapeError: kernels of different geometry.
    """
    readers = list(convs)
    relations = {conv.relation for conv in readers}
    if len(relations) > 1:
        raise ShapeError(f"readers of one map have one geometry, got {sorted(map(str, relations))}")
    whole = any(conv.offsets is None for conv in readers)
    union = {k for conv in readers for k in conv.offsets or ()}
    for conv in readers:
        conv.searched = None if whole else tuple(sorted(union))

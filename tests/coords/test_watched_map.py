"""A watched map: what was derived, and that it can be derived again, alone."""

import pytest
import torch

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.watched_map import TRANSPOSED, Derived, WatchedMap, remade
from pcsparse.engine.gather_layout import layout_of
from pcsparse.engine.grouping import adaptive_groups
from tests.engine.test_dataflows import maps


@pytest.mark.parametrize("name", ["submanifold", "strided-overlapping"])
def test_all_that_is_derived_is_written_down_once(name):
    kmap = maps()[name]
    watched = WatchedMap(kmap)
    assert watched.seen == {}
    for _ in range(2):
        spans = watched.transposed().tile_spans(16)
        assert torch.equal(spans, kmap.transposed().tile_spans(16))
        watched.tile_spans(32)
    derived = [
        Derived(False, TRANSPOSED),
        Derived(True, "tile_spans 16"),
        Derived(False, "tile_spans 32"),
    ]
    assert list(watched.seen) == derived
    assert watched.transposed().transposed() is watched
    # the way back is no transpose of its own
    assert list(watched.seen) == derived
    again = remade(watched.seen[Derived(True, "tile_spans 16")])
    assert again is not spans
    assert torch.equal(again, spans)
    # nothing stays with the map that was given
    assert "tile_spans 32" not in kmap._derived


def test_what_is_taken_keeps_the_map_that_it_is_made_of(monkeypatch):
    lists = maps()["strided-overlapping"]
    kmap = KernelMap(lists.relation, lists.n_in, lists.n_out, table=lists.table)
    watched = WatchedMap(kmap)
    # of the transpose, which reads the map for it
    rows, starts = watched.transposed().outputs_by_input()
    make = watched.taken()[Derived(True, "outputs_by_input")]
    assert watched.seen == {}
    del watched
    monkeypatch.setattr(WatchedMap, "_swapped", lambda kmap: pytest.fail("transposed once more"))
    again = remade(make)
    assert all(map(torch.equal, again, (rows, starts)))


def test_what_a_form_is_made_of_is_written_down_too_and_not_made_again():
    watched = WatchedMap(maps()["submanifold"])
    counts = watched.offset_counts()
    groups = adaptive_groups(counts, epsilon=0.3, batch_below=1 << 40, symmetric=True)
    layout = layout_of(watched, groups)
    names = [derived.name for derived in watched.seen]
    assert set(names) == {"offset_counts", "by_output", ("gather_scatter", groups)}

    before = dict(watched._derived)
    again = remade(watched.seen[Derived(False, ("gather_scatter", groups))])
    assert torch.equal(again.places, layout.places)
    assert watched._derived == before
    assert str(Derived(True, ("gather_scatter", groups))) == "gather_scatter of the transpose"


def test_a_bare_map_has_nothing_derived():
    kmap = maps()["strided-overlapping"]
    kmap.tile_spans(32)
    bare = kmap.bare()
    assert bare._derived.keys() == {"header"}
    assert bare.born is kmap.born
    assert (bare.n_in, bare.n_out, bare.symmetric) == (kmap.n_in, kmap.n_out, kmap.symmetric)

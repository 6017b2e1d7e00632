"""Peers through one interface: their order of offsets is found out, not believed."""

import pytest
import torch

from pcsparse.bench import peers as peers_module
from pcsparse.bench.cases import MAP_CASES, ConvCase
from pcsparse.bench.layers import run_conv_case
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.bench.map_library import twin
from pcsparse.bench.maps import run_map_case
from pcsparse.bench.ours import Ours
from pcsparse.bench.peers import find_peers
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from tests.bench.scenes import small_scene

CUBE, HALVE = Relation.of(3), Relation.of(2, 2)
LAYERS = {
    "submanifold": ConvCase("a", "submanifold", CUBE, 6, 5, False, False, ("ci",)),
    "backward": ConvCase("b", "submanifold", CUBE, 6, 5, True, False, ("ci",)),
    "strided": ConvCase("c", "strided", HALVE, 6, 5, False, True, ("ci",)),
    "inverse": ConvCase("d", "inverse", HALVE, 6, 5, False, False, ("ci",)),
}


class Shuffled(Ours):
    """The package with its offsets in another order and its coarse rows backwards."""

    name = "shuffled"
    seed = 3
    # the package trusts its own order, a peer is probed
    conv = Library.conv

    def order(self, k: int) -> torch.Tensor:
        return torch.randperm(k, generator=torch.Generator().manual_seed(self.seed))

    def layer(self, layer, kernel, stride, c_in, c_out, level):
        made = super().layer(layer, kernel, stride, c_in, c_out, level)
        weight = made.inner.weight
        order = self.order(kernel**3)
        theirs = torch.nn.Parameter(torch.zeros_like(weight))

        class Inner(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.theirs = theirs
                # hidden from parameters(): only `theirs` is trained
                self.conv = [made.inner]

            def forward(self, x):
                (conv,) = self.conv
                out = torch.zeros_like(self.theirs).index_copy(0, order, self.theirs)
                del conv._parameters["weight"]
                conv.weight = out
                try:
                    return conv(x)
                finally:
                    del conv.weight
                    conv.register_parameter("weight", weight)

        inner = Inner()
        return LibraryConv(inner, inner.theirs, lambda tensor: tensor)


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_another_order_of_offsets_is_found_by_probing(case):
    library = Shuffled()
    (peer,) = run_conv_case(case, small_scene(300), [library], 1).peers
    assert not peer.failed, peer.failed
    assert peer.time is not None
    kernel = case.relation.kernel_size[0]
    assert torch.equal(library._orders[case.layer, kernel], library.order(kernel**3))


def test_without_probing_the_peer_is_wrong_and_gets_no_time(monkeypatch):
    monkeypatch.setattr("pcsparse.bench.library._probe", lambda *given: torch.arange(27))
    (peer,) = run_conv_case(LAYERS["submanifold"], small_scene(300), [Shuffled()], 1).peers
    assert peer.failed
    assert peer.time is None


def test_two_weights_at_one_offset_are_refused():
    class Doubled(Shuffled):
        def order(self, k):
            order = super().order(k)
            order[0] = order[1]
            return order

    with pytest.raises(UnsupportedError, match="reach offsets"):
        Doubled().conv("submanifold", 3, 1, 4, 4, 0)


def test_a_gradient_that_is_not_there_is_an_error():
    with pytest.raises(UnsupportedError, match="call backward"):
        Ours().conv("submanifold", 3, 1, 4, 4, 0).grad()


def test_a_library_keeps_its_number_of_threads_to_itself():
    library, before = Ours(), torch.get_num_threads()
    library.threads = 1
    assert library.at_its_threads(torch.get_num_threads)() == 1
    assert torch.get_num_threads() == before
    library.threads = None
    assert library.at_its_threads(torch.get_num_threads)() == before


def test_plain_torch_is_always_there_and_what_is_missing_is_named(monkeypatch):
    def gone():
        raise ImportError("No module named 'spconv'\nand more")

    monkeypatch.setattr(peers_module, "_OPTIONAL", (("spconv", gone),))
    found = find_peers()
    assert [library.name for library in found.libraries] == ["plain torch"]
    assert found.absent == (("spconv", "No module named 'spconv'"),)


def test_a_library_without_generative_maps_says_so():
    with pytest.raises(UnsupportedError, match="twin has no generative maps"):
        twin().make_map(small_scene(50).coords, HALVE, "generative")


INSTALLED = {library.name: library for library in find_peers().libraries[1:]}


@pytest.mark.skipif(
    not INSTALLED, reason="no optional peer (spconv, TorchSparse 1.4, MinkowskiEngine 0.5) is installed"
)
@pytest.mark.parametrize("library", INSTALLED.values(), ids=INSTALLED.keys())
def test_an_installed_peer_agrees_with_the_twins(library):
    scene = small_scene(600)
    for case in LAYERS.values():
        (peer,) = run_conv_case(case, scene, [library], 1).peers
        assert not peer.failed, (case.name, peer.failed)
        assert (peer.time is None) == (peer.refusal is not None)
    refused = set()
    for map_case in MAP_CASES:
        (peer,) = run_map_case(map_case, scene, [library], 1).peers
        assert not peer.failed, (map_case.name, peer.failed)
        assert (peer.time is None) == (peer.refusal is not None)
        refused |= {map_case.name} if peer.refusal is not None else set()
    assert refused <= {"map 3^3 stride 2", "map 2^3 stride 2 generative"}

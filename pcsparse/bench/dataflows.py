"""Every dataflow beside the rule's choice, on clouds of several sizes: what `engine.plan`'s rule rests on.

The rule's choice and the dataflow that it names are the same code timed twice: the ratio of these two shows
how much of the others' is noise.
"""

from collections.abc import Iterable
from dataclasses import replace

from pcsparse.bench.cases import SETTLE, ConvCase
from pcsparse.bench.layers import run_conv_case
from pcsparse.bench.ours import Ours
from pcsparse.bench.outcome import Result
from pcsparse.bench.scaling import sized_coords
from pcsparse.bench.scene import Scene, draw
from pcsparse.engine.plan import DATAFLOWS
from pcsparse.engine.problem import ConvProblem
from pcsparse.sparse_tensor import SparseTensor


def run_dataflows(
    cases: Iterable[ConvCase], scene: Scene, n: int | None, runs: int, *, settle: int = SETTLE
) -> tuple[Result, ...]:
    """Verify and time each case by the rule and by every dataflow of the device, in the places of peers.

    Args:
        cases: layers.
        scene: the cloud.
        n: voxels, by `sized_coords`; None for the cloud as it is.
        runs: of each dataflow.
        settle: see `timing.time_in_turns`.
    """
    if n is not None:
        tensor = SparseTensor(draw(n, 4), sized_coords(scene.coords, n), batch_size=1)
        scene = replace(scene, tensor=tensor)
    where = f", {len(scene.coords):,} voxels"
    return tuple(
        run_conv_case(replace(case, name=case.name + where), scene, _able(case, scene), runs, settle=settle)
        for case in cases
    )


def _able(case: ConvCase, scene: Scene) -> list[Ours]:
    """Those that run on the device, and take so many channels."""
    n, coords = len(scene.coords), scene.coords
    sizes = case.relation.volume, case.c_in, case.c_out, n, n, None
    problem = ConvProblem(coords.device.type, case.dtype, *sizes, symmetric=case.relation.is_submanifold)
    return [Ours(name) for name, flow in DATAFLOWS.items() if flow.refuses(problem) is None]

"""What a benchmark run leaves in a JSON file."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pcsparse.bench.groupings import GroupingResult
from pcsparse.bench.limits import REFERENCE_LIMITS, Limits
from pcsparse.bench.memory import MemoryResult
from pcsparse.bench.neighbours import NeighbourResult
from pcsparse.bench.outcome import Result
from pcsparse.bench.redundancy import RedundancyResult
from pcsparse.bench.verify import Check
from pcsparse.timing import Environment
from pcsparse.whole_file import write_whole

FORMAT = 3
_RESULTS = ("maps", "layers", "nets", "steps", "dataflows")


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        environment: where it ran.
        cloud: name of the cloud.
        n_points: its points.
        n_voxels: its voxels.
        n_pairs: pairs of its submanifold 3^3 map.
        voxel_size: metres.
        limits: of the machine.
        peers: (name, remark) of the libraries compared with.
        absent: (name, why) of those that are not there.
        maps: kernel maps.
        layers: single convolutions.
        nets: whole networks, forward.
        steps: whole networks, training steps.
        memory: of a training step.
        groupings: gather-GEMM-scatter.
        redundancy: sorted implicit GEMM.
        dataflows: single convolutions by every dataflow, which stand in the places of peers.
        neighbours: searches among points.
        settle: untimed runs of the same candidate right before each timed one, of maps, layers and dataflows.
    """

    environment: Environment
    cloud: str
    n_points: int
    n_voxels: int
    n_pairs: int
    voxel_size: float
    limits: Limits
    peers: tuple[tuple[str, str], ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    maps: tuple[Result, ...] = ()
    layers: tuple[Result, ...] = ()
    nets: tuple[Result, ...] = ()
    steps: tuple[Result, ...] = ()
    memory: tuple[MemoryResult, ...] = ()
    groupings: tuple[GroupingResult, ...] = ()
    redundancy: tuple[RedundancyResult, ...] = ()
    dataflows: tuple[Result, ...] = ()
    neighbours: tuple[NeighbourResult, ...] = ()
    settle: int = 0

    def failures(self) -> tuple[Check, ...]:
        """Every check of the package that did not pass; a wrong peer is a note in its table."""
        results = (*self.maps, *self.layers, *self.nets, *self.steps, *self.dataflows)
        checks = [check for result in results for check in result.ours.checks]
        # here the peers are the package as well
        checks += [c for result in self.dataflows for peer in result.peers for c in peer.checks]
        checks += [result.check for result in self.groupings]
        checks += [result.check for result in self.redundancy]
        checks += [result.check for result in self.neighbours]
        return tuple(check for check in checks if not check.passed)

    def write(self, path: Path) -> None:
        """Write JSON; times in seconds, null where a check failed. The file appears whole or not at all.

        Each result also gets `peak_goal`, see `Result.goal_at`.
        """
        content: dict[str, Any] = asdict(self)
        for section in _RESULTS:
            for entry, result in zip(content[section], getattr(self, section), strict=True):
                entry["peak_goal"] = result.goal_at(self.limits)
        write_json(path, {"format": FORMAT, "reference_limits": asdict(REFERENCE_LIMITS), **content})


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write strict JSON (nan and inf as text), whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{json.dumps(_plain(content), indent=1, allow_nan=False)}\n".encode())


def _plain(value: object) -> object:
    """JSON has no nan and no inf."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""The table of the study of a quarter: scores with intervals over sweeps and seeds, times in turns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pcsparse.train.sweep_counts import SweepCounts, draw_weights, interval_of, resampled_mean

_SEED = 20231
_START = "dense"


@dataclass(frozen=True, eq=False)
class Tried:
    """One network.

    Attributes:
        name: of its row; seeds share one.
        seed: of its training.
        counts: on the held-out streets, a row a town.
        parameters: of the network.
        steps: of its last training; 0 where there was none.
    """

    name: str
    seed: int
    counts: SweepCounts
    parameters: int
    steps: int = 0


def differences(tried: Sequence[Tried]) -> dict[str, tuple[float, float, float]]:
    """By name: mIoU above the dense start, and its 95 % interval over held-out towns and seeds.

    Towns are drawn with replacement, the same for both networks; seeds too.
    """
    groups = _groups(tried)
    start = groups[_START][0].counts
    rng = np.random.default_rng(_SEED)
    weights = draw_weights(len(start.right), rng)
    found = {}
    for name, group in groups.items():
        gains = resampled_mean([one.counts for one in group], weights, rng) - start.miou(weights)
        found[name] = (_mean(group) - float(start.miou()[0]), *interval_of(gains))
    return found


def table_text(tried: Sequence[Tried], ms: Mapping[str, tuple[float, ...]], share: float) -> str:
    """A Markdown table, a row a name.

    Args:
        tried: all networks; one is named "dense", the start.
        ms: milliseconds of each name on a few sweeps, maps included.
        share: the budget, of the start's milliseconds.
    """
    lines = [
        f"budget {share:.0%} of the milliseconds; {len(tried[0].counts.right)} held-out towns",
        "",
        "| network | seeds | steps | M parameters | ms a sweep | of dense "
        "| mIoU | least, most | above dense |",
        "|" + "---|" * 9,
    ]
    gains, groups = differences(tried), _groups(tried)
    for name, group in groups.items():
        scores = [100 * float(one.counts.miou()[0]) for one in group]
        part = float(np.mean([a / b for a, b in zip(ms[name], ms[_START], strict=True)]))
        gain, low, high = (100 * value for value in gains[name])
        shown = "" if name == _START else f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(
            f"| {name} | {len(group)} | {_steps(group)} | {group[0].parameters / 1e6:.2f} "
            f"| {' '.join(f'{value:.1f}' for value in ms[name])} | {part:.1%} | {np.mean(scores):.1f} "
            f"| {min(scores):.1f}, {max(scores):.1f} | {shown} |"
        )
    return "\n".join(lines)


def _groups(tried: Sequence[Tried]) -> dict[str, list[Tried]]:
    groups: dict[str, list[Tried]] = {}
    for one in tried:
        groups.setdefault(one.name, []).append(one)
    return groups


def _steps(group: Sequence[Tried]) -> str:
    """One number where all seeds had as many."""
    return ", ".join(map(str, dict.fromkeys(one.steps for one in group)))


def _mean(group: Sequence[Tried]) -> float:
    return float(np.mean([float(one.counts.miou()[0]) for one in group]))

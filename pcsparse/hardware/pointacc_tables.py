"""Tables of a run of PointAcc's model: layers, kernel maps, other mapping, fusion."""

from collections.abc import Iterator, Sequence

from pcsparse.hardware.pointacc import LayerRun, PointAccRun, Stage
from pcsparse.hardware.pointacc_memory import Traffic
from pcsparse.hardware.pointacc_study import MapComparison

_MB = 1e6


def layer_head() -> str:
    """The columns of `layer_lines`: thousands of cycles, and megabytes; a rule below.

    A block has its rows behind it: * all channels, c channels outside of offsets, w sums leave the chip.
    """
    head = (
        f"{'layer':<24} {'rows':>7} {'pairs':>8} {'channels':>9} | {'matrix':>7} {'util':>4} {'mapping':>7} "
        f"{'memory':>7} {'stage':>7} {'bound':<7} | "
        f"{'gather':>7} {'uncached':>8} {'cached':>7} {'inputs':>6} block"
    )
    return f"{head}\n{'-' * len(head)}"


def layer_lines(run: PointAccRun) -> Iterator[str]:
    """A line a stage; a fused group is one, under the name of its first layer."""
    layers = {layer.name: layer for layer in run.layers}
    groups = {group.layers: group.traffic for plan in run.plans for group in plan.groups}
    for stage in run.stages:
        yield _layer_line(stage, [layers[name] for name in stage.layers], groups.get(stage.layers))


def map_head(width: int) -> str:
    """The columns of `map_line`: thousands of cycles, KB; a rule below."""
    head = (
        f"{'kernel map':<24} {'in':>7} {'out':>7} {'k':>3} {'pairs':>8} | {f'merger {width}':>10} "
        f"{'steps':>6} {'stalled':>7} | {'hash':>6} {'filled':>6} {'waits':>6} | {'on chip':>7} "
        f"{'memory':>6} | {'table':>6} {'x':>5}"
    )
    return f"{head}\n{'-' * len(head)}"


def map_line(each: MapComparison) -> str:
    """A kernel map by both designs; the ratios are hash over merger."""
    merged, hashed, name = each.merged, each.hashed, each.name.removesuffix(" map")
    return (
        f"{name:<24} {each.n_in:7d} {each.n_out:7d} {each.offsets:3d} {each.n_pairs:8d} | "
        f"{merged.cycles / 1e3:10.1f} {merged.steps / 1e3:6.1f} {merged.stalled / 1e3:7.1f} | "
        f"{hashed.cycles / 1e3:6.1f} {hashed.build / 1e3:6.1f} {hashed.conflicts / 1e3:6.0f} | "
        f"{each.speedup:7.2f} {each.speedup_from_memory:6.2f} | "
        f"{hashed.table_bytes / 1024:6.0f} {each.smaller:5.0f}"
    )


def other_mapping_lines(run: PointAccRun) -> Iterator[str]:
    """Levels, samples and neighbours: they have no hash to stand beside."""
    for step in run.mapping:
        if step.kind != "map":
            agreed = {True: "as the engine's", False: "NOT the engine's", None: "no other to compare"}
            yield (
                f"{step.name:<24} {step.kind:<8} {step.cost.cycles / 1e3:9.1f} kcycles "
                f"{step.cost.steps:7d} steps {step.cost.memory_bytes / _MB:7.2f} MB  {agreed[step.agrees]}"
            )


def fusion_lines(run: PointAccRun) -> Iterator[str]:
    """Chains of linear layers: bytes without and with fusion, and the groups."""
    for plan in run.plans:
        groups = " | ".join(f"{'+'.join(group.layers)} x{group.tile_rows}" for group in plan.groups)
        yield (
            f"{plan.alone_bytes / 1e3:9.1f} KB {plan.fused_bytes / 1e3:9.1f} KB {plan.saved:6.1%}  {groups}"
        )


def totals(run: PointAccRun) -> str:
    """A network on a chip in a line."""
    busy = sum(layer.matrix.macs for layer in run.layers) / (
        run.cycles * run.chip.array_rows * run.chip.array_cols
    )
    bound = [stage.bound for stage in run.stages]
    return (
        f"{run.network} on {run.chip.name}: {run.milliseconds:.3f} ms, {run.memory_bytes / _MB:.1f} MB, "
        f"array {busy:.0%} busy; stages bound by matrix {bound.count('matrix')}, "
        f"memory {bound.count('memory')}, mapping {bound.count('mapping')}"
    )


def _layer_line(stage: Stage, layers: Sequence[LayerRun], moved: Traffic | None) -> str:
    units = (
        f"{stage.matrix_cycles / 1e3:7.1f} {_busy(layers):>4} {stage.mapping_cycles / 1e3:7.1f} "
        f"{stage.memory_cycles / 1e3:7.1f} {stage.cycles / 1e3:7.1f} {stage.bound:<7}"
    )
    if not layers:
        return f"{'(before the first layer)':<24} {'':>7} {'':>8} {'':>9} | {units} |"
    first, last = layers[0], layers[-1]
    more = f" +{len(layers) - 1}" if len(layers) > 1 else ""
    channels = f"{first.c_in}>{last.c_out}"
    left = f"{first.name + more:<24} {first.n_out:7d} {first.n_pairs:8d} {channels:>9} | {units}"
    if first.cached is None or first.uncached is None or first.gathered is None or moved is not None:
        return f"{left} | {'':>7} {'':>8} {(moved.total if moved else 0) / _MB:7.2f}"
    own, config = first.cached.traffic, first.cached.config
    fewer = first.uncached.inputs / own.inputs if own.inputs else 1.0
    marks = {"*": config.all_channels, "c": config.channels_outer, "w": config.weights_stay}
    moved_mb = (first.gathered.total / _MB, first.uncached.total / _MB, own.total / _MB)
    block = f"{config.block_points}{''.join(mark for mark, on in marks.items() if on)}"
    return f"{left} | {moved_mb[0]:7.2f} {moved_mb[1]:8.2f} {moved_mb[2]:7.2f} {fewer:5.1f}x {block}"


def _busy(layers: Sequence[LayerRun]) -> str:
    cycles = sum(layer.matrix.cycles for layer in layers)
    macs = sum(layer.matrix.macs for layer in layers)
    return f"{macs / (cycles * layers[0].matrix.multipliers):.2f}" if cycles else ""

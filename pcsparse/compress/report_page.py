"""A compression as one HTML page that needs no other file."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from pcsparse.compress.measured import LayerPair, LayerSide, SweepPair
from pcsparse.compress.report_facts import Measured, NetworkFacts, ReportFacts
from pcsparse.timing import Timing

_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2em auto;max-width:78em;padding:0 1em;color:#181c22}"
    "img{max-width:100%}h2{margin-top:2em}pre{background:#f6f7f9;padding:.8em;overflow:auto}"
    "table{border-collapse:collapse;margin-top:.6em}th,td{padding:.25em .7em;text-align:right;"
    "border-bottom:1px solid #d0d4da;font-variant-numeric:tabular-nums}"
    "th:first-child,td:first-child,td.text{text-align:left}caption{text-align:left;color:#68707c;"
    "padding-bottom:.4em}tr.idle td{background:#fdeee4}tr.sum td{font-weight:600}"
    ".busy{color:#fff;background:#c2410c;padding:.6em .8em;font-weight:600}small{color:#68707c}"
)
_PICTURES = {
    "sensitivity.png": "What each step loses when it alone is pruned, nothing trained",
    "search.png": "What the search tried: reward by rollout, and score over cost",
}


def report_html(facts: ReportFacts, pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        facts: to be shown.
        pictures: PNG by name: "report.png", and "sensitivity.png" and "search.png" where they are there.
    """
    title = html.escape(facts.title)
    busy = (
        '<p class="busy">The machine was BUSY with other work while this was measured: do not quote these '
        "milliseconds; measure again when it is quiet.</p>\n"
        if facts.measured.busy
        else ""
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{busy}"
        f"{_headline(facts.measured)}\n{_budget(facts)}\n{_whole(facts.measured)}\n"
        f"{_image('layers before and after', pictures['report.png'])}\n"
        f"{_layers(facts.measured)}\n{_why(facts, pictures)}\n{_provenance(facts)}\n</body></html>\n"
    )


def _headline(found: Measured) -> str:
    rows = [_network(network, found.usual) for network in found.networks]
    columns = ("network", "score %", "against dense, points", "against control, points", "parameters",
               "file, MB", "M multiply-adds", "ms, maps there", "ms, maps included")  # fmt: skip
    caption = (
        f"Score: {html.escape(found.metric)}. Milliseconds: medians in turns on a sweep of "
        f"{found.usual.n_voxels:,} voxels, quartiles in brackets; networks of the same widths share them."
    )
    return _table(caption, columns, rows)


def _network(network: NetworkFacts, sweep: SweepPair) -> list[str]:
    there, included = (sweep.after, sweep.after_all) if network.smaller else (sweep.before, sweep.before_all)
    return [
        network.name,
        str(network.score),
        "" if network.gain is None else network.gain.signed(),
        "" if network.over_control is None else network.over_control.signed(),
        f"{network.parameters:,}",
        f"{network.file_bytes / 1e6:.2f} <small>{html.escape(network.file_type)}</small>",
        f"{network.macs / 1e6:,.1f}",
        _ms(there),
        _ms(included),
    ]


def _budget(facts: ReportFacts) -> str:
    choice = facts.choice
    text = (
        f"Budget: {choice.budget:.6g} {choice.unit} of {choice.full_cost:.6g}; what was chosen costs "
        f"{choice.cost:.6g} by the table ({choice.cost / choice.full_cost:.1%})."
    )
    if choice.unit == "ms":
        sweep = facts.measured.usual
        before, after = sweep.before_all.median, sweep.after_all.median
        text += (
            f" Measured, maps included, on a sweep of {sweep.n_voxels:,} voxels: {1e3 * after:.2f} ms of "
            f"{1e3 * before:.2f} ({after / before:.1%}); the table was made on the calibration sweeps."
        )
    return f"<p>{text}</p>"


def _whole(found: Measured) -> str:
    rows = []
    for sweep in found.sweeps:
        faster = sweep.before_all.median / sweep.after_all.median
        rows.append(
            [
                f"{sweep.n_voxels:,}",
                _ms(sweep.maps_before),
                _ms(sweep.maps_after),
                _ms(sweep.before),
                _ms(sweep.after),
                _ms(sweep.before_all),
                _ms(sweep.after_all),
                f"{faster:.2f}",
                f"{sweep.maps_after.median / sweep.after_all.median:.0%}",
            ]
        )
    columns = ("voxels", "maps before", "maps after", "before, maps there", "after, maps there",
               "before, maps included", "after, maps included", "times as fast", "maps of that")  # fmt: skip
    return "<h2>Whole networks</h2>\n" + _table("Milliseconds, in turns.", columns, rows)


def _layers(found: Measured) -> str:
    rows = [_layer(layer, ms) for layer, ms in zip(found.layers, found.predicted, strict=True)]
    classes = ["idle" if layer.idle else "" for layer in found.layers]
    rows.append(_sum(found))
    columns = ("layer", "kind", "in", "out", "offsets", "rows", "M multiply-adds", "left", "ms before",
               "ms after", "left", "predicted", "")  # fmt: skip
    caption = (
        "Each layer of both networks, fused as in inference, measured again in turns on one sweep, its map "
        "there. Rows: that a layer writes by multiply-adds; others pass it as they are. Rows that keep the "
        "kernel's centre alone count as written; their lost pairs are in the multiply-adds. "
        "Predicted: the same layer by the table that the search used. Marked: multiply-adds fell, the median "
        "time did not fall below the first quartile of before."
    )
    return "<h2>Layers</h2>\n" + _table(caption, columns, rows, [*classes, "sum"])


def _layer(layer: LayerPair, predicted: float | None) -> list[str]:
    before, after = layer.before, layer.after
    foreseen = "" if predicted is None else f"{predicted:.3f}"
    start = [html.escape(layer.name), layer.kind]
    if after is None:
        widths = [str(before.c_in), str(before.c_out), str(before.k), _rows(before.rows, before.rows)]
        macs = f"{before.macs / 1e6:,.1f} → 0"
        return [*start, *widths, macs, "0%", _ms(before.time, 3), "gone", "0%", foreseen, ""]
    return [
        *start,
        _change(before.c_in, after.c_in),
        _change(before.c_out, after.c_out),
        _change(before.k, after.k),
        _rows(before.rows, after.rows),
        f"{before.macs / 1e6:,.1f} → {after.macs / 1e6:,.1f}" if before.macs else "",
        f"{after.macs / before.macs:.0%}" if before.macs else "",
        _ms(before.time, 3),
        _ms(after.time, 3),
        f"{after.time.median / before.time.median:.0%}",
        foreseen,
        "fewer multiply-adds, no less time" if layer.idle else "",
    ]


def _sum(found: Measured) -> list[str]:
    def total(sides: Iterable[LayerSide]) -> tuple[float, float]:
        listed = list(sides)
        return sum(side.macs for side in listed) / 1e6, 1e3 * sum(side.time.median for side in listed)

    before = total(layer.before for layer in found.layers)
    after = total(layer.after for layer in found.layers if layer.after is not None)
    return [
        "all layers",
        *[""] * 5,
        f"{before[0]:,.1f} → {after[0]:,.1f}",
        f"{after[0] / before[0]:.0%}",
        f"{before[1]:.2f}",
        f"{after[1]:.2f}",
        f"{after[1] / before[1]:.0%}",
        _foreseen(found),
        "",
    ]


def _foreseen(found: Measured) -> str:
    """The sum of what was predicted, empty where that lacks layers that were measured."""
    both = zip(found.layers, found.predicted, strict=True)
    parts = [ms for layer, ms in both if layer.after is not None]
    return "" if None in parts else f"{sum(ms for ms in parts if ms is not None):.2f}"


def _why(facts: ReportFacts, pictures: Mapping[str, bytes]) -> str:
    choice = facts.choice
    rows = [
        [
            html.escape(step.name),
            html.escape(step.places),
            _change(step.full, step.kept),
            f"{step.kept / step.full:.0%}",
            f"{step.share:.1%}",
            f"{step.saves:.4g}",
            "" if step.loses is None else f"{100 * step.loses:+.2f}",
        ]
        for step in choice.steps
    ]
    dense = "" if choice.dense_score is None else f" of {100 * choice.dense_score:.2f} whole"
    said = (
        f"{choice.method}, seed {choice.seed}: the best of {choice.evaluations} "
        f"evaluation{'' if choice.evaluations == 1 else 's'} within the budget"
        f"{f', after a scan of {choice.scanned}' if choice.scanned else ''}. Score right after pruning "
        f"{100 * choice.score:.2f} %{dense}, on the sweeps of the search. {choice.note}"
    )
    # only channels are written by some layers and read by others
    places = "written by → read by" if any("→" in step.places for step in choice.steps) else "layers"
    columns = ("step", places, "kept", "", f"share of {choice.unit}",
               f"saves alone, {choice.unit}", "loses alone, points")  # fmt: skip
    caption = (
        "Each step alone, the others whole: what cutting it so saves by the table, and what that loses by "
        "the scan. What saves much and loses little should go; the search also saw what steps do together."
    )
    shown = "".join(
        f"<h3>{text}</h3>\n{_image(text, pictures[name])}\n"
        for name, text in _PICTURES.items()
        if name in pictures
    )
    table = _table(caption, columns, rows)
    return f"<h2>Why each step got what it got</h2>\n<p>{html.escape(said)}</p>\n{table}\n{shown}"


def _provenance(facts: ReportFacts) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in facts.notes)
    return (
        f"<h2>How it was made</h2>\n<pre>{html.escape(facts.command)}</pre>\n<ul>\n{notes}</ul>\n"
        f"<pre>{html.escape(facts.measured.environment)}</pre>"
    )


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _rows(before: int | None, after: int | None) -> str:
    """Empty where a file of an earlier version does not say."""
    if before is None or after is None:
        return ""
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def _ms(time: Timing, digits: int = 2) -> str:
    low, high = f"{1e3 * time.q1:.{digits}f}", f"{1e3 * time.q3:.{digits}f}"
    return f"{1e3 * time.median:.{digits}f} <small>({low}-{high})</small>"


def _image(text: str, png: bytes) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()
) -> str:
    """Cells are HTML already; columns and caption too."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    marks = [*classes, *[""] * (len(rows) - len(classes))]
    body = "\n".join(
        f"<tr{f' class={mark!r}' if mark else ''}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return f"<table><caption>{caption}</caption>\n<tr>{head}</tr>\n{body}\n</table>"

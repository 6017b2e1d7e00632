"""The report of a compression: one page and one picture."""

from pathlib import Path

from pcsparse.compress.report_facts import ReportFacts
from pcsparse.compress.report_figure import report_png
from pcsparse.compress.report_page import report_html
from pcsparse.whole_file import write_whole


def write_report(facts: ReportFacts, folder: Path) -> None:
    """Write report.html, which needs no other file, and report.png into a folder.

    Pictures of the scan and the search are taken in where they lie beside it.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    picture = report_png(facts)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.png", picture)
    others = {name: folder / name for name in ("sensitivity.png", "search.png")}
    pictures = {name: path.read_bytes() for name, path in others.items() if path.is_file()}
    write_whole(folder / "report.html", report_html(facts, {"report.png": picture, **pictures}).encode())

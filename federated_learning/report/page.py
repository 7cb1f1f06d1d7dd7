"""Makes docs/federated-results.md and its plots from result files."""

import os
from functools import partial
from pathlib import Path
from typing import Final

from contract.errors import CallerError
from federated_learning.report import PLOTS, writing
from federated_learning.report.measured import measure_all
from federated_learning.report.results import check_comparable, read_results
from federated_learning.report.sections import SECTIONS, Content
from federated_learning.report.writing import Section

TEMPLATE: Final = Path(__file__).parent / "page.md"
NOTICE: Final = "<!-- made by federated-learning report; words stand in federated_learning/report/page.md -->\n\n"


def render(results: Path, page: Path) -> Section:
    """Make the page at `page` from a folder of results. Raises CallerError for results that cannot be compared."""
    found = read_results(results)
    if not found:
        raise CallerError(f"{results}: holds no result; write one for each run with federated-learning evaluate")
    check_comparable(found)
    links = Path(os.path.relpath(results, page.parent)).as_posix()
    content = Content(results=found, splits=measure_all(found), links=links)
    sections = {name: partial(make, content) for name, make in SECTIONS.items()}
    return writing.fill(NOTICE + TEMPLATE.read_text(encoding="utf-8"), sections)


def write(results: Path, page: Path) -> None:
    """Write the page and its plots."""
    writing.write(render(results, page), page, plots=PLOTS)

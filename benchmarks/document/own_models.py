"""The section on networks as people bring them."""

from pathlib import Path

from benchmarks.document.parts import read_part
from benchmarks.document.section import MISSING, Section, source
from benchmarks.document.text import megabytes, seconds, table
from benchmarks.own_models import OwnModels


def own_models(folder: Path) -> Section:
    """Errors against onnxruntime, and costs."""
    found = read_part("own-models", folder, OwnModels)
    if found is None:
        return Section(MISSING)
    kept, result = found
    rows = [
        (
            one.name,
            f"{one.outputs} {one.ending}, {one.task}",
            f"{one.weights / 1e6:.1f}",
            one.engine,
            f"{one.largest_logit:.2g}",
            f"{one.max_logit_error:.2g}",
            f"{one.max_probability_error:.2g}",
            seconds(one.online_seconds),
            megabytes(one.online_bytes),
            megabytes(one.offline_bytes),
            str(one.one_way_trips),
        )
        for one in result.models
    ]
    headings = (
        *("network", "ends in, task", "million weights", "engine", "largest logit", "largest logit error"),
        *("largest probability error", "online s", "online MB", "offline MB", "one-way trips"),
    )
    title = f"{result.side} x {result.side}, one image, medians of {result.runs} runs, each of another phantom:"
    return Section("\n\n".join([title, source(kept), table(headings, rows)]))

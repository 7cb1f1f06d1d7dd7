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
            str(one.side),
            f"{one.outputs} {one.ending}, {one.task}",
            f"{one.weights / 1e6:.1f}",
            f"{one.largest_logit:.2g}",
            f"{one.max_logit_error:.2g}",
            f"{one.noise_moves_logits:.2g}",
            f"{one.max_probability_error:.2g}",
            f"{one.answers_agree} of {one.pictures}",
            *([] if one.online_seconds is None else [seconds(one.online_seconds)]),
            megabytes(one.online_bytes),
            megabytes(one.offline_bytes),
            str(one.one_way_trips),
        )
        for one in result.models
    ]
    timed = all(one.online_seconds is not None for one in result.models)
    headings = (
        *("network", "side", "ends in, task", "million weights", "largest logit", "largest logit error"),
        *("0.1 % noise moves logits by", "largest probability error", "same answers"),
        *(("online s",) if timed else ()),
        *("online MB", "offline MB", "one-way trips"),
    )
    title = f"The masked engine, one image, {result.runs} runs, each of another phantom"
    title += "; seconds are medians:" if timed else ". No seconds: other programs kept the machine busy."
    return Section("\n\n".join([title, source(kept), table(headings, rows)]))

"""The section on federated training's secure aggregation."""

from pathlib import Path

from benchmarks.document.parts import AggregationCosts, read_part
from benchmarks.document.section import MISSING, Section, source
from benchmarks.document.text import megabytes, seconds, spread, table


def aggregation(folder: Path) -> Section:
    """A round's arithmetic alone, and a round of a real federation."""
    found = read_part("aggregation", folder, AggregationCosts)
    if found is None:
        return Section(MISSING)
    kept, result = found
    alone, real = result.arithmetic, result.federation
    rows = [
        (
            "arithmetic, all on one core",
            seconds(alone.together_seconds),
            seconds(alone.plain_together_seconds),
            f"{alone.extra_together_seconds:+.3f}",
            megabytes(alone.bytes_sent_by_a_hospital),
            f"{alone.bytes_against_plain:.2f}",
        ),
        (
            "arithmetic, a machine for each",
            seconds(alone.apart_seconds),
            seconds(alone.plain_apart_seconds),
            f"{alone.extra_apart_seconds:+.3f}",
            megabytes(alone.bytes_sent_by_a_hospital),
            f"{alone.bytes_against_plain:.2f}",
        ),
        (
            "a real federation on loopback",
            spread(real.secure.seconds, *real.secure.seconds_range),
            spread(real.plain.seconds, *real.plain.seconds_range),
            f"{real.extra_seconds:+.3f}",
            megabytes(real.secure.bytes_sent_by_a_hospital),
            f"{real.bytes_against_plain:.2f}",
        ),
    ]
    title = (
        f"{real.hospitals} hospitals, {real.architecture}, {real.parameters:,} parameters (arithmetic: "
        f"{alone.parameters:,}), sums in a ring of {alone.ring_bits} bits; medians of {alone.runs} rounds of "
        f"arithmetic and {real.rounds} of the federation:"
    )
    headings = ("what", "secure s", "in the clear s", "extra s", "MB sent by a hospital", "of plain float32")
    return Section("\n\n".join([title, source(kept), table(headings, rows)]))

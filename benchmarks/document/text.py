"""Tables and numbers in Markdown."""

from collections.abc import Sequence

from benchmarks.machine import Machine


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def spread(median: float, smallest: float, largest: float) -> str:
    """A median and what it is a median of."""
    return f"{seconds(median)} ({seconds(smallest)} - {seconds(largest)})"


def megabytes(count: float) -> str:
    """Bytes as megabytes of a million."""
    return f"{count / 1e6:,.1f}" if count < 1e8 else f"{count / 1e6:,.0f}"


def machine_words(machine: Machine) -> str:
    """One line."""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB, {', '.join(machine.flags)}; "
        f"{machine.kernel}; load when it began {machine.load_average:.1f}"
    )

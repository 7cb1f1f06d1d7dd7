"""What the page says about each part, made from its kept result. A part without one is said not to be measured."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.document import plots
from benchmarks.document.federated import aggregation
from benchmarks.document.other_systems import ariann, peers
from benchmarks.document.own_models import own_models
from benchmarks.document.parts import read_part
from benchmarks.document.section import MISSING, Section, picture, source
from benchmarks.document.text import machine_words, megabytes, seconds, spread, table
from benchmarks.emulated_links import Networks
from benchmarks.growth import Growth
from benchmarks.layers import Layers
from benchmarks.predicting import error_words, foretell, percent, rows_with_predictions
from benchmarks.reporting import Result, Summary
from benchmarks.scale import Scale

Render = Callable[[Path], Section]


def machine(folder: Path) -> Section:
    """The machine and the versions, by the first latency result."""
    found = read_part("latency-resnet18", folder, Summary)
    if found is None:
        return Section(MISSING)
    first = found[1].results[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    return Section(
        f"- Machine: {machine_words(first.machine)}.\n- {first.threads} thread for a tensor operation in each party.\n"
        f"- Versions: {versions}."
    )


def latency(folder: Path) -> Section:
    """One image, both models."""
    parts = []
    traffic: dict[str, dict[str, float]] = {}
    for name in ("latency-resnet18", "latency-resnet18-maxpool"):
        found = read_part(name, folder, Summary)
        if found is None:
            parts.append(f"**{name.removeprefix('latency-')}**. {MISSING}")
            continue
        kept, summary = found
        parts += [_latency_title(summary), source(kept), _costs(summary), _by_link(summary), _by_party(summary)]
        label = name.removeprefix("latency-")
        for result in summary.results:
            if result.online_bytes:
                traffic.setdefault(f"{label}\nonline", {})[result.engine] = result.online_bytes / 1e6
            if result.offline_bytes:
                traffic.setdefault(f"{label}\noffline", {})[result.engine] = result.offline_bytes / 1e6
    drawn = {}
    if traffic:
        drawn["traffic.svg"] = plots.grouped_bars(traffic, up="megabytes an image (log)")
        parts.append(picture("traffic.svg", "traffic by system"))
    return Section("\n\n".join(parts), drawn)


def _latency_title(summary: Summary) -> str:
    first = summary.first()
    runs = f", medians of {summary.results[0].runs} runs in turns" if summary.results else ""
    pictures = f", {summary.results[0].pictures} phantoms" if summary.results else ""
    images = "one image" if first.batch == 1 else f"{first.batch} images at once"
    return f"**{first.model}**, {first.size} x {first.size}, {images}{runs}{pictures}:"


def _costs(summary: Summary) -> str:
    rows: list[tuple[str, ...]] = [
        (
            result.engine,
            _spread(result, "online"),
            _spread(result, "offline"),
            _spread(result, "total"),
            megabytes(result.online_bytes),
            megabytes(result.offline_bytes),
            str(result.one_way_trips),
            f"{result.max_abs_error:.2g}",
        )
        for result in summary.results
    ]
    rows += [(one.engine, f"not measured: {one.not_measured}", *[""] * 6) for one in summary.not_measured]
    headings = ("engine", "online s (range)", "offline s", "total s", "online MB", "offline MB", "one-way trips")
    return table((*headings, "largest logit error"), rows)


def _spread(result: Result, phase: str) -> str:
    middle = {"online": result.online_seconds, "offline": result.offline_seconds, "total": result.total_seconds}[phase]
    ends = {
        "online": result.online_seconds_range,
        "offline": result.offline_seconds_range,
        "total": result.total_seconds_range,
    }[phase]
    return "0" if ends.largest == 0 else spread(middle, ends.smallest, ends.largest)


def _by_link(summary: Summary) -> str:
    rows = [
        (
            result.engine,
            f"{_party(link.sender)} to {_party(link.receiver)}",
            megabytes(link.online_bytes),
            megabytes(link.offline_bytes),
        )
        for result in summary.results
        for link in result.links
    ]
    return table(("engine", "link and direction", "online MB", "offline MB"), rows)


def _by_party(summary: Summary) -> str:
    rows = [
        (
            result.engine,
            _party(party),
            seconds(result.cpu_seconds[party]) if party in result.cpu_seconds else "not measured",
            f"{size / 1e6:,.0f}",
        )
        for result in summary.results
        for party, size in result.peak_rss_bytes.items()
    ]
    return table(("engine", "party", "processor s", "peak memory MB"), rows)


def _party(name: str) -> str:
    return name.replace("_", " ")


def batch(folder: Path) -> Section:
    """Several images in one evaluation."""
    found = read_part("batch", folder, Summary)
    if found is None:
        return Section(MISSING)
    kept, summary = found
    return Section("\n\n".join([_latency_title(summary), source(kept), _costs(summary)]))


def growth(folder: Path) -> Section:
    """By size."""
    found = read_part("growth", folder, Growth)
    if found is None:
        return Section(MISSING)
    kept, result = found
    rows = [
        (
            f"{one.side} x {one.side}",
            seconds(one.online_seconds),
            seconds(one.offline_seconds),
            megabytes(one.online_bytes),
            megabytes(one.offline_bytes),
            str(one.one_way_trips),
        )
        for one in result.sizes
    ]
    line = (
        f"A straight line through the online medians: {result.online_microseconds_per_pixel:.2f} microseconds and "
        f"{result.online_bytes_per_pixel:,.0f} bytes a pixel, and {seconds(result.online_seconds_at_no_pixels)} s that "
        f"do not depend on the size. Medians of {result.runs} runs."
    )
    headings = ("size", "online s", "offline s", "online MB", "offline MB", "one-way trips")
    return Section("\n\n".join([source(kept), table(headings, rows), line]))


def networks(folder: Path) -> Section:
    """By network, measured and predicted."""
    found = read_part("networks", folder, Networks)
    if found is None:
        return Section(MISSING)
    kept, result = found[0], foretell(found[1])
    links = {facts.link.name: facts for facts in result.links}
    bars: dict[str, dict[str, float]] = {}
    rows = []
    for row, foretold in rows_with_predictions(result):
        ends, before = row.online_seconds_range, row.offline_seconds_range
        if row.runs > 1:
            shown = spread(row.online_seconds, ends.smallest, ends.largest)
            shown_before = spread(row.offline_seconds, before.smallest, before.largest) if before.largest else "0"
        else:
            shown, shown_before = seconds(row.online_seconds), seconds(row.offline_seconds)
        rows.append(
            (
                links[row.network].link.words(),
                row.engine,
                str(row.runs),
                shown,
                _predicted(foretold.online_seconds, foretold.online_error) if foretold else "",
                shown_before,
                _predicted(foretold.offline_seconds, foretold.offline_error) if foretold else "",
            )
        )
        bars.setdefault(row.network, {})[row.engine] = row.online_seconds
    emulated = [
        f"{name}: {facts.measured.round_trip_milliseconds:.1f} ms, {_rate(facts.measured.megabits_per_second)}"
        for name, facts in links.items()
        if facts.measured is not None
    ]
    words = (
        f"What the relay made of each link, round trip and rate, measured before the runs: {'; '.join(emulated)}. "
        "Predictions follow from the runs on loopback: trips x latency + bytes in line / rate + computing. They are "
        f"off by, lowest to highest: {error_words(result)}."
    )
    headings = ("network", "engine", "runs", "online s", "predicted", "offline s", "predicted")
    return Section(
        "\n\n".join(
            [
                f"**{result.model}**, {result.size} x {result.size}, one image:",
                source(kept),
                table(headings, rows),
                words,
                picture("networks.svg", "online seconds by network"),
            ]
        ),
        {"networks.svg": plots.grouped_bars(bars, up="online seconds, one image (log)")},
    )


def _rate(megabits: float | None) -> str:
    return "no limit" if megabits is None else f"{megabits:,.0f} Mbit/s"


def _predicted(value: float, error: float | None) -> str:
    """A prediction, and how far it is off."""
    return seconds(value) if error is None else f"{seconds(value)} ({percent(error)})"


def scale(folder: Path) -> Section:
    """Throughput by sessions."""
    found = read_part("scale", folder, Scale)
    if found is None:
        return Section(MISSING)
    kept, result = found
    lines: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for level in result.levels:
        material = "from stock" if level.stocked else "dealt on demand"
        lines.setdefault(material, []).append((level.sessions, level.images_per_minute))
        memory = level.peak_rss_bytes
        rows.append(
            (
                str(level.sessions),
                material,
                f"{level.images_per_minute:.3g}",
                seconds(level.latency_seconds.median),
                seconds(level.latency_seconds.p95),
                seconds(level.online_seconds.median),
                seconds(level.online_seconds.p95),
                f"{memory.get('model_owner', 0) / 1e6:,.0f}",
            )
        )
    stocked = ", ".join(f"{one.items_per_minute:.3g} with {one.sessions}" for one in result.stocking)
    headings = ("at once", "material", "images a minute", "seconds an image, p50", "p95", "online s, p50", "p95")
    title = (
        f"**{result.model}**, {result.height} x {result.width}, {result.images_per_session} images of each hospital at "
        f"each level. Items stocked a minute, by hospitals at once: {stocked}."
    )
    return Section(
        "\n\n".join(
            [
                title,
                source(kept),
                table((*headings, "model owner's peak memory so far MB"), rows),
                picture("throughput.svg", "images a minute by sessions at once"),
            ]
        ),
        {"throughput.svg": plots.lines(lines, across="hospitals at once", up="images a minute")},
    )


LAYER_SHARE: Final = 0.01
"""Layers below this share of the whole are drawn and listed together."""


def layers(folder: Path) -> Section:
    """Where the online time goes."""
    found = read_part("layers", folder, Layers)
    if found is None:
        return Section(MISSING)
    kept, result = found
    whole = sum(one.model_owner_seconds for one in result.layers)
    bars: dict[str, dict[str, float]] = {}
    kinds: dict[str, tuple[int, float, float]] = {}
    for one in result.layers:
        name = one.name if one.model_owner_seconds >= LAYER_SHARE * whole else "all others"
        bar = bars.setdefault(name, {"model owner, and waiting": 0.0, "data owner computes": 0.0})
        answer = min(one.data_owner_cpu_seconds, one.model_owner_seconds)
        bar["model owner, and waiting"] += (one.model_owner_seconds - answer) * 1e3
        bar["data owner computes"] += answer * 1e3
        count, wall, cpu = kinds.get(one.kind, (0, 0.0, 0.0))
        kinds[one.kind] = (count + 1, wall + one.model_owner_seconds, cpu + one.data_owner_cpu_seconds)
    rows = [
        (kind, str(count), f"{wall * 1e3:.1f}", f"{cpu * 1e3:.1f}", f"{wall / whole:.0%}")
        for kind, (count, wall, cpu) in sorted(kinds.items(), key=lambda item: -item[1][1])
    ]
    headings = ("kind of layer", "layers", "ms", "of these, data owner computes, ms", "share")
    title = f"**{result.model}**, {result.size} x {result.size}, medians of {result.runs} runs for each layer:"
    return Section(
        "\n\n".join([title, source(kept), table(headings, rows), picture("layers.svg", "online time by layer")]),
        {"layers.svg": plots.stacked_bars(bars, across="milliseconds, one image")},
    )


SECTIONS: Final[Mapping[str, Render]] = {
    "machine": machine,
    "latency": latency,
    "batch": batch,
    "networks": networks,
    "peers": peers,
    "ariann": ariann,
    "own-models": own_models,
    "scale": scale,
    "growth": growth,
    "layers": layers,
    "aggregation": aggregation,
}
"""By the name of the place in the template."""

"""What people read of each result of ours. `other_systems` does the same for comparisons."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Final

from benchmarks.cost_model import Prediction, Predictions
from benchmarks.document import plots
from benchmarks.document.blocks import Plot, Shown, Table, megabytes, seconds, spread
from benchmarks.emulated_links import LinkFacts, LinkPrediction, LinkResults, LinkRow, add_predictions
from benchmarks.endurance import Endurance
from benchmarks.federation import AggregationCosts
from benchmarks.growth import Growth, SizeCost
from benchmarks.latency import Result, Summary
from benchmarks.layers import Layers
from benchmarks.measuring import Measurement
from benchmarks.own_models import OwnModel, OwnModels
from benchmarks.results import Phases, Range
from benchmarks.scale import Scale

COUNTS: Final[Mapping[str, Callable[[Phases], str]]] = {
    "online MB": lambda one: megabytes(one.online_bytes),
    "offline MB": lambda one: megabytes(one.offline_bytes),
    "one-way trips": lambda one: str(one.one_way_trips),
}


def show_summary(summary: Summary) -> Shown:
    """One image or batch by several engines: costs, then links, then parties."""
    by_link = Table.over(
        [(result.engine, link) for result in summary.results for link in result.links],
        {
            "engine": lambda row: row[0],
            "link and direction": lambda row: f"{_name_of(row[1].sender)} to {_name_of(row[1].receiver)}",
            "online MB": lambda row: megabytes(row[1].online_bytes),
            "offline MB": lambda row: megabytes(row[1].offline_bytes),
        },
    )
    by_party = Table.over(
        [(result, party) for result in summary.results for party in result.peak_rss_bytes],
        {
            "engine": lambda row: row[0].engine,
            "party": lambda row: _name_of(row[1]),
            "processor s": lambda row: seconds(row[0].cpu_seconds.get(row[1], math.nan)),
            "peak memory MB": lambda row: f"{row[0].peak_rss_bytes[row[1]] / 1e6:,.0f}",
        },
    )
    return Shown(_title(summary), [_show_costs(summary), *_show_commands(summary), by_link, by_party], summary.machine)


def _show_commands(summary: Summary) -> list[str]:
    """What a clinician waits who types the command; nothing for what is no command of ours."""
    found = [(one.engine, one.cold_seconds) for one in summary.results if one.cold_seconds is not None]
    words = [f"{engine} {cold.later:.2f} (the first call {cold.first:.2f})" for engine, cold in found]
    return [f"Seconds from typing `data-owner diagnose` to its answer: {', '.join(words)}."] if words else []


def show_batch(summary: Summary) -> Shown:
    """Several images in one evaluation: costs alone."""
    return Shown(_title(summary), [_show_costs(summary)], summary.machine)


def _title(summary: Summary) -> str:
    first = summary.rows[0]
    runs = f", medians of {summary.results[0].runs} runs in turns" if summary.results else ""
    pictures = f", {summary.results[0].pictures} phantoms" if summary.results else ""
    images = "one image" if first.batch == 1 else f"{first.batch} images at once"
    return f"**{first.model}**, {first.size} x {first.size}, {images}{runs}{pictures}:"


def _show_costs(summary: Summary) -> Table:
    columns: Mapping[str, Callable[[Result], str]] = {
        "engine": lambda one: one.engine,
        "online s (range)": lambda one: _with_range(one.online_seconds, one.online_seconds_range),
        "offline s": lambda one: _with_range(one.offline_seconds, one.offline_seconds_range),
        "total s": lambda one: _with_range(one.total_seconds, one.total_seconds_range),
        **COUNTS,
        "largest logit error": lambda one: f"{one.max_abs_error:.2g}",
    }
    measured = Table.over(summary.results, columns)
    left_out = [(one.engine, f"not measured: {one.not_measured}", *[""] * 6) for one in summary.not_measured]
    return Table(measured.headings, [*measured.rows, *left_out])


def _with_range(median: float, ends: Range) -> str:
    return spread(median, ends.smallest, ends.largest) if ends.largest else "0"


def _name_of(name: str) -> str:
    return name.replace("_", " ")


def plot_traffic(found: Sequence[tuple[str, Summary]]) -> Plot | str:
    """Megabytes of one image by several engines, for each model; nothing for no model."""
    bars: dict[str, dict[str, float]] = {}
    for label, summary in found:
        for result in summary.results:
            for phase, count in (("online", result.online_bytes), ("offline", result.offline_bytes)):
                if count:
                    bars.setdefault(f"{label}\n{phase}", {})[result.engine] = count / 1e6
    draw = partial(plots.draw_grouped_bars, bars, up="megabytes an image (log)")
    return Plot("traffic.svg", "traffic by system", draw) if bars else ""


def show_growth(result: Growth) -> Shown:
    """By size."""
    columns: Mapping[str, Callable[[SizeCost], str]] = {
        "size": lambda one: f"{one.side} x {one.side}",
        "online s": lambda one: seconds(one.online_seconds),
        "offline s": lambda one: seconds(one.offline_seconds),
        **COUNTS,
    }
    line = (
        f"A straight line through the online medians: {result.online_microseconds_per_pixel:.2f} microseconds and "
        f"{result.online_bytes_per_pixel:,.0f} bytes a pixel, and {seconds(result.online_seconds_at_no_pixels)} s that "
        f"do not depend on the size. Medians of {result.runs} runs."
    )
    return Shown("", [Table.over(result.sizes, columns), line], result.machine)


def show_links(measured: LinkResults) -> Shown:
    """By link, measured and predicted."""
    result = add_predictions(measured)
    wirings = {facts.link.name: facts.link for facts in result.links}
    predictions = {(one.network, one.engine): one for one in result.predictions}
    bars: dict[str, dict[str, float]] = {}
    rows = []
    for row in result.rows:
        predicted = predictions.get((row.network, row.engine))
        online = _with_range(row.online_seconds, row.online_seconds_range)
        offline = _with_range(row.offline_seconds, row.offline_seconds_range)
        several = row.runs > 1
        rows.append(
            (
                wirings[row.network].words(),
                row.engine,
                str(row.runs),
                online if several else seconds(row.online_seconds),
                _with_error(predicted.online_seconds, predicted.online_error) if predicted else "",
                offline if several else seconds(row.offline_seconds),
                _with_error(predicted.offline_seconds, predicted.offline_error) if predicted else "",
            )
        )
        bars.setdefault(row.network, {})[row.engine] = row.online_seconds
    relays = [words for facts in result.links for words in _describe_relays(facts)]
    words = (
        f"What the relay made of each link, round trip and rate, measured before the runs: {'; '.join(relays)}. "
        "Predictions follow from the runs on loopback: trips x latency + bytes in line / rate + computing. They are "
        f"off by, lowest to highest: {describe_errors(result.predictions)}."
    )
    headings = ("network", "engine", "runs", "online s", "predicted", "offline s", "predicted")
    draw = partial(plots.draw_grouped_bars, bars, up="online seconds, one image (log)")
    plot = Plot("networks.svg", "online seconds by network", draw)
    title = f"**{result.model}**, {result.size} x {result.size}, one image:"
    return Shown(title, [Table(headings, rows), words, plot], measured.machine)


def show_hospital(result: LinkResults) -> Shown:
    """What a clinician waits, with every link as slow as the hospital's and with the hospital's alone."""
    wirings = {facts.link.name: facts.link for facts in result.links}
    measured = {row: result.measurements(row.engine, row.network) for row in result.rows}

    def show(row: LinkRow, figure: Callable[[Measurement], float]) -> str:
        values = [figure(one) for one in measured[row]]
        return spread(median(values), min(values), max(values))

    columns: Mapping[str, Callable[[LinkRow], str]] = {
        "network": lambda row: wirings[row.network].words(),
        "engine": lambda row: row.engine,
        "runs": lambda row: str(row.runs),
        "typing to answer s": lambda row: show(row, lambda one: one.details["command_seconds"]),
        "offline and online s": lambda row: show(row, lambda one: one.offline_seconds + one.online_seconds),
        "online s": lambda row: seconds(row.online_seconds),
        **COUNTS,
    }
    relays = "; ".join(words for facts in result.links for words in _describe_relays(facts))
    words = f"What the relay made of each link, round trip and rate, measured before the runs: {relays}."
    title = f"**{result.model}**, {result.size} x {result.size}, one image:"
    return Shown(title, [Table.over(result.rows, columns), words], result.machine)


def _describe_relays(facts: LinkFacts) -> list[str]:
    found = []
    for name, measured in (
        (facts.link.name, facts.measured),
        (f"{facts.link.name} between the others", facts.others_measured),
    ):
        if measured is not None:
            rate = measured.megabits_per_second
            words = "no limit" if rate is None else f"{rate:,.0f} Mbit/s"
            found.append(f"{name}: {measured.round_trip_milliseconds:.1f} ms, {words}")
    return found


def describe_errors(predictions: Sequence[LinkPrediction]) -> str:
    """How far predictions were off, by engine: their range over the links."""
    words = []
    for engine in dict.fromkeys(one.engine for one in predictions):
        mine = [one for one in predictions if one.engine == engine]
        phases = {"online": [one.online_error for one in mine], "offline": [one.offline_error for one in mine]}
        ranges = []
        for phase, errors in phases.items():
            shown = [_percent(error) for error in sorted(one for one in errors if one is not None)]
            if shown:
                ranges.append(f"{phase} {' to '.join(dict.fromkeys((shown[0], shown[-1])))}")
        words.append(f"{engine} {', '.join(ranges)}")
    return "; ".join(words)


def _percent(error: float) -> str:
    return f"{round(error * 100):+d}%"


def _with_error(value: float, error: float | None) -> str:
    """A prediction, and how far it is off."""
    return seconds(value) if error is None else f"{seconds(value)} ({_percent(error)})"


def show_predictions(found: Predictions) -> Shown:
    """What one image would take over other links."""
    columns: Mapping[str, Callable[[Prediction], str]] = {
        "network": lambda one: one.link.words(),
        "engine": lambda one: one.engine,
        "online s": lambda one: seconds(one.online_seconds),
        "offline s": lambda one: seconds(one.offline_seconds),
    }
    title = f"{found.model}, one image, predicted from {found.source}, measured on loopback:"
    return Shown(title, [Table.over(found.predictions, columns)], None)


def show_scale(result: Scale) -> Shown:
    """Throughput, latency and memory by hospitals at once."""
    lines: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for level in result.levels:
        material = "from stock" if level.stocked else "dealt on demand"
        lines.setdefault(material, []).append((level.sessions, level.images_per_minute))
        rows.append(
            (
                str(level.sessions),
                material,
                f"{level.images_per_minute:.3g}",
                seconds(level.latency_seconds.median),
                seconds(level.latency_seconds.p95),
                seconds(level.online_seconds.median),
                seconds(level.online_seconds.p95),
                f"{level.peak_rss_bytes.get('model_owner', 0) / 1e6:,.0f}",
            )
        )
    stocked = ", ".join(f"{one.items_per_minute:.3g} with {one.sessions}" for one in result.stocking)
    headings = ("at once", "material", "images a minute", "seconds an image, p50", "p95", "online s, p50", "p95")
    title = (
        f"**{result.model}**, {result.height} x {result.width}, {result.images_per_session} images of each hospital at "
        f"each level. Items stocked a minute, by hospitals at once: {stocked}."
    )
    draw = partial(plots.draw_lines, lines, across="hospitals at once", up="images a minute")
    plot = Plot("throughput.svg", "images a minute by sessions at once", draw)
    return Shown(title, [Table((*headings, "model owner's peak memory so far MB"), rows), plot], result.machine)


def show_endurance(result: Endurance) -> Shown:
    """What the servers held at the beginning, in the middle and at the end, and what restarting them took."""
    chosen = [result.samples[index] for index in sorted({0, len(result.samples) // 2, len(result.samples) - 1})]
    rows = [
        (str(sample.diagnoses), party, f"{held / 1e6:,.0f}", str(sample.open_files[party]))
        for sample in chosen
        for party, held in sample.resident_bytes.items()
    ]
    title = (
        f"{result.model} {result.model_version}: {result.diagnoses} diagnoses of {result.hospitals} hospitals in "
        f"{result.seconds / 60:.0f} minutes"
    )
    latency = result.latency_seconds
    restarts = "; ".join(
        f"{one.party} {'killed' if one.killed else 'ended'}: {one.seconds:.2g} s to its start"
        for one in result.restarts
    )
    words = (
        f"Seconds an image: p50 {latency.median:.3g}, p95 {latency.p95:.3g}; median of the first tenth "
        f"{result.first_tenth.median:.3g}, of the last {result.last_tenth.median:.3g}. {restarts}."
    )
    return Shown(title, [Table(("diagnoses", "server", "MB resident", "open files"), rows), words], result.machine)


LAYER_SHARE: Final = 0.01
"""Layers below this share of the whole are drawn and listed together."""


def show_layers(result: Layers) -> Shown:
    """What each layer takes of the online time."""
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
    draw = partial(plots.draw_stacked_bars, bars, across="milliseconds, one image")
    return Shown(title, [Table(headings, rows), Plot("layers.svg", "online time by layer", draw)], result.machine)


def show_own_models(result: OwnModels) -> Shown:
    """Networks as people bring them: errors against onnxruntime, and costs."""
    timed = all(one.online_seconds is not None for one in result.models)
    times: Mapping[str, Callable[[OwnModel], str]] = {"online s": lambda one: seconds(one.online_seconds or 0.0)}
    columns: Mapping[str, Callable[[OwnModel], str]] = {
        "network": lambda one: one.name,
        "engine": lambda one: one.engine,
        "side": lambda one: str(one.side),
        "ends in, task": lambda one: f"{one.outputs} {one.ending}, {one.task}",
        "million weights": lambda one: f"{one.weights / 1e6:.1f}",
        "largest logit": lambda one: f"{one.largest_logit:.2g}",
        "largest logit error": lambda one: f"{one.max_logit_error:.2g}",
        "0.1 % noise moves logits by": lambda one: f"{one.noise_moves_logits:.2g}",
        "largest probability error": lambda one: f"{one.max_probability_error:.2g}",
        "same answers": lambda one: f"{one.answers_agree} of {one.pictures}",
        **(times if timed else {}),
        "online MB": lambda one: megabytes(one.online_bytes),
        "offline MB": lambda one: megabytes(one.offline_bytes),
        "one-way trips": lambda one: str(one.one_way_trips),
    }
    title = f"One image, {result.runs} runs, each of another phantom"
    title += "; seconds are medians:" if timed else ". No seconds: other programs kept the machine busy."
    left_out = [f"- {one.model}, {one.engine}: not measured: {one.not_measured}" for one in result.not_measured]
    return Shown(title, [Table.over(result.models, columns), "\n".join(left_out)], result.machine)


def show_aggregation(result: AggregationCosts) -> Shown:
    """A training round's arithmetic alone, and a round between real processes."""
    alone, real = result.arithmetic, result.federation
    ours, theirs = real.secure, real.plain
    sent = megabytes(alone.bytes_sent_by_a_hospital)
    rows = [
        (
            "arithmetic, all on one core",
            seconds(alone.together_seconds),
            seconds(alone.plain_together_seconds),
            f"{alone.extra_together_seconds:+.3f}",
            sent,
            f"{alone.bytes_against_plain:.2f}",
        ),
        (
            "arithmetic, a machine for each",
            seconds(alone.apart_seconds),
            seconds(alone.plain_apart_seconds),
            f"{alone.extra_apart_seconds:+.3f}",
            sent,
            f"{alone.bytes_against_plain:.2f}",
        ),
        (
            "a real federation on loopback",
            spread(ours.seconds, *ours.seconds_range),
            spread(theirs.seconds, *theirs.seconds_range),
            f"{real.extra_seconds:+.3f}",
            megabytes(ours.bytes_sent_by_a_hospital),
            f"{real.bytes_against_plain:.2f}",
        ),
    ]
    title = (
        f"{real.hospitals} hospitals, {real.architecture}, {real.parameters:,} parameters (arithmetic: "
        f"{alone.parameters:,}), sums in a ring of {alone.ring_bits} bits; medians of {alone.runs} rounds of "
        f"arithmetic and {real.rounds} of the federation:"
    )
    headings = ("what", "secure s", "in the clear s", "extra s", "MB sent by a hospital", "of plain float32")
    return Shown(title, [Table(headings, rows)], result.arithmetic.machine)

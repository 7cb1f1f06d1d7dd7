"""What people read of each result of ours. `other_systems` does the same for comparisons."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from benchmarks.cost_model import Predictions
from benchmarks.document import plots
from benchmarks.document.blocks import Plot, Shown, Table, megabytes, seconds, spread
from benchmarks.document.parts import AggregationCosts
from benchmarks.emulated_links import LinkFacts, LinkResults
from benchmarks.endurance import Endurance
from benchmarks.growth import Growth
from benchmarks.latency import Summary
from benchmarks.layers import Layers
from benchmarks.own_models import OwnModels
from benchmarks.predicting import add_predictions, describe_errors, percent, rows_with_predictions
from benchmarks.results import Range
from benchmarks.scale import Scale


def show_summary(summary: Summary) -> Shown:
    """One image or batch by several engines: costs, then links, then parties."""
    links = [
        (
            result.engine,
            f"{_name_of_party(link.sender)} to {_name_of_party(link.receiver)}",
            megabytes(link.online_bytes),
            megabytes(link.offline_bytes),
        )
        for result in summary.results
        for link in result.links
    ]
    parties = [
        (
            result.engine,
            _name_of_party(party),
            seconds(result.cpu_seconds[party]) if party in result.cpu_seconds else "not measured",
            f"{size / 1e6:,.0f}",
        )
        for result in summary.results
        for party, size in result.peak_rss_bytes.items()
    ]
    by_link = Table(("engine", "link and direction", "online MB", "offline MB"), links)
    by_party = Table(("engine", "party", "processor s", "peak memory MB"), parties)
    return Shown(_title(summary), [_costs(summary), by_link, by_party], summary.machine)


def show_batch(summary: Summary) -> Shown:
    """Several images in one evaluation: costs alone."""
    return Shown(_title(summary), [_costs(summary)], summary.machine)


def _title(summary: Summary) -> str:
    first = summary.rows[0]
    runs = f", medians of {summary.results[0].runs} runs in turns" if summary.results else ""
    pictures = f", {summary.results[0].pictures} phantoms" if summary.results else ""
    images = "one image" if first.batch == 1 else f"{first.batch} images at once"
    return f"**{first.model}**, {first.size} x {first.size}, {images}{runs}{pictures}:"


def _costs(summary: Summary) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            result.engine,
            _with_range(result.online_seconds, result.online_seconds_range),
            _with_range(result.offline_seconds, result.offline_seconds_range),
            _with_range(result.total_seconds, result.total_seconds_range),
            megabytes(result.online_bytes),
            megabytes(result.offline_bytes),
            str(result.one_way_trips),
            f"{result.max_abs_error:.2g}",
        )
        for result in summary.results
    ]
    rows += [(one.engine, f"not measured: {one.not_measured}", *[""] * 6) for one in summary.not_measured]
    headings = ("engine", "online s (range)", "offline s", "total s", "online MB", "offline MB", "one-way trips")
    return Table((*headings, "largest logit error"), rows)


def _with_range(median: float, ends: Range) -> str:
    return spread(median, ends.smallest, ends.largest) if ends.largest else "0"


def _name_of_party(name: str) -> str:
    return name.replace("_", " ")


def plot_traffic(found: Sequence[tuple[str, Summary]]) -> Plot | str:
    """Megabytes of one image by several engines, for each model; nothing for no model."""
    bars: dict[str, dict[str, float]] = {}
    for label, summary in found:
        for result in summary.results:
            for phase, count in (("online", result.online_bytes), ("offline", result.offline_bytes)):
                if count:
                    bars.setdefault(f"{label}\n{phase}", {})[result.engine] = count / 1e6
    draw = partial(plots.grouped_bars, bars, up="megabytes an image (log)")
    return Plot("traffic.svg", "traffic by system", draw) if bars else ""


def show_growth(result: Growth) -> Shown:
    """By size."""
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
    return Shown("", [Table(headings, rows), line], result.machine)


def show_links(measured: LinkResults) -> Shown:
    """By link, measured and predicted."""
    result = add_predictions(measured)
    links = {facts.link.name: facts for facts in result.links}
    bars: dict[str, dict[str, float]] = {}
    rows = []
    for row, predicted in rows_with_predictions(result):
        online = _with_range(row.online_seconds, row.online_seconds_range)
        offline = _with_range(row.offline_seconds, row.offline_seconds_range)
        several = row.runs > 1
        rows.append(
            (
                links[row.network].link.words(),
                row.engine,
                str(row.runs),
                online if several else seconds(row.online_seconds),
                _with_error(predicted.online_seconds, predicted.online_error) if predicted else "",
                offline if several else seconds(row.offline_seconds),
                _with_error(predicted.offline_seconds, predicted.offline_error) if predicted else "",
            )
        )
        bars.setdefault(row.network, {})[row.engine] = row.online_seconds
    emulated = [words for name, facts in links.items() if (words := _describe_relay(name, facts))]
    words = (
        f"What the relay made of each link, round trip and rate, measured before the runs: {'; '.join(emulated)}. "
        "Predictions follow from the runs on loopback: trips x latency + bytes in line / rate + computing. They are "
        f"off by, lowest to highest: {describe_errors(result)}."
    )
    headings = ("network", "engine", "runs", "online s", "predicted", "offline s", "predicted")
    draw = partial(plots.grouped_bars, bars, up="online seconds, one image (log)")
    plot = Plot("networks.svg", "online seconds by network", draw)
    title = f"**{result.model}**, {result.size} x {result.size}, one image:"
    return Shown(title, [Table(headings, rows), words, plot], measured.machine)


def _describe_relay(name: str, facts: LinkFacts) -> str:
    found = facts.measured
    if found is None:
        return ""
    rate = "no limit" if found.megabits_per_second is None else f"{found.megabits_per_second:,.0f} Mbit/s"
    return f"{name}: {found.round_trip_milliseconds:.1f} ms, {rate}"


def _with_error(value: float, error: float | None) -> str:
    """A prediction, and how far it is off."""
    return seconds(value) if error is None else f"{seconds(value)} ({percent(error)})"


def show_predictions(found: Predictions) -> Shown:
    """What one image would take over other links."""
    rows = [
        (one.link.words(), one.engine, seconds(one.online_seconds), seconds(one.offline_seconds))
        for one in found.predictions
    ]
    title = f"{found.model}, one image, predicted from {found.source}, measured on loopback:"
    return Shown(title, [Table(("network", "engine", "online s", "offline s"), rows)], None)


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
    draw = partial(plots.lines, lines, across="hospitals at once", up="images a minute")
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
    draw = partial(plots.stacked_bars, bars, across="milliseconds, one image")
    return Shown(title, [Table(headings, rows), Plot("layers.svg", "online time by layer", draw)], result.machine)


def show_own_models(result: OwnModels) -> Shown:
    """Networks as people bring them: errors against onnxruntime, and costs."""
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
    return Shown(title, [Table(headings, rows)], result.machine)


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

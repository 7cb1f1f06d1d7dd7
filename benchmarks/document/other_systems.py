"""Sections on other people's systems beside ours."""

from pathlib import Path

from benchmarks.ariann import AriannTable, LinkCost
from benchmarks.comparison import PeerRow, Peers, Spread
from benchmarks.document.parts import read_part
from benchmarks.document.section import MISSING, Section, source
from benchmarks.document.text import machine_words, megabytes, seconds, spread, table


def peers(folder: Path) -> Section:
    """Other systems, and what each trusts."""
    found = read_part("peers", folder, Peers)
    if found is None:
        return Section(MISSING)
    kept, result = found
    rows = [(f"{row.size} x {row.size}", row.system, *_peer_figures(row)) for row in result.rows]
    headings = ("size", "system", "online s (range)", "offline s", "online MB", "offline MB", "largest logit error")
    told = {row.system: f"- {row.system}: {row.configuration}. Trust: {row.trust}" for row in result.rows}
    versions = ", ".join(f"{name} {version}" for name, version in result.spu_versions.items())
    title = (
        f"**{result.model}**, one image, medians of {result.runs} runs in turns. An answer counts as the same within "
        f"{result.agreement:g} of onnxruntime's logits."
    )
    parts = [title, source(kept), table((*headings, "outcome"), rows), "\n".join(told.values())]
    if versions:
        parts.append(f"In SPU's environment: {versions}.")
    return Section("\n\n".join(parts))


def _peer_figures(row: PeerRow) -> tuple[str, ...]:
    outcome = row.status.value if row.reason is None else f"{row.status.value}: {row.reason}"
    if row.label_equal is False:
        outcome += "; another label"

    def shown(part: Spread | None) -> str:
        if part is None:
            return ""
        return spread(part.median, part.smallest, part.largest) if part.largest else "0"

    def counted(count: int | None) -> str:
        return "not counted" if count is None else megabytes(count)

    error = "" if row.max_logit_error is None else f"{row.max_logit_error:.2g}"
    online, offline = row.online_seconds, row.offline_seconds
    return (shown(online), shown(offline), counted(row.online_bytes), counted(row.offline_bytes), error, outcome)


def ariann(folder: Path) -> Section:
    """Published beside measured."""
    found = read_part("ariann", folder, AriannTable)
    if found is None:
        return Section(MISSING)
    kept, result = found
    rows: list[tuple[str, ...]] = []
    for row in result.rows:
        theirs = row.published
        megabytes_online = f"{theirs.online_megabytes:,g}"
        megabytes_offline = "" if theirs.offline_megabytes is None else f"{theirs.offline_megabytes:,g}"
        before = f"{theirs.preprocessing_seconds:g}"
        name = f"{theirs.title}, batch {theirs.batch}"
        for where, value in (
            ("LAN, CPU", theirs.lan_cpu_seconds),
            ("LAN, GPU", theirs.lan_gpu_seconds),
            ("WAN, CPU", theirs.wan_cpu_seconds),
        ):
            rows.append((name, f"AriaNN, {where}", before, f"{value:g}", megabytes_online, megabytes_offline, ""))
            name = before = megabytes_online = megabytes_offline = ""
        rows += [("", f"ours, {cost.link}", *_own_cost(cost)) for cost in row.ours]
    published = result.published
    words = (
        f"AriaNN: {published.source}; CPU {published.cpu_machine}; GPU {published.gpu_machine}; LAN {published.lan}; "
        f"WAN {published.wan}. Ours: {machine_words(result.machine)}; medians of {result.runs} runs over "
        f"{', '.join(link.words() for link in result.links)}."
    )
    headings = ("network", "system", "offline s", "online s", "online MB", "offline MB", "one-way trips")
    return Section("\n\n".join([source(kept), table(headings, rows), words]))


def _own_cost(cost: LinkCost) -> tuple[str, ...]:
    ends = cost.online_seconds_range
    return (
        seconds(cost.offline_seconds),
        spread(cost.online_seconds, ends.smallest, ends.largest),
        f"{cost.online_bytes / 1e6:,.2f}",
        f"{cost.offline_bytes / 1e6:,.2f}",
        str(cost.one_way_trips),
    )

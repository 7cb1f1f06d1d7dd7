"""What people read of other people's systems beside ours."""

from benchmarks.ariann import AriannTable
from benchmarks.comparison import PeerRow, Peers
from benchmarks.document.blocks import Block, Shown, Table, describe_machine, megabytes, seconds, spread
from benchmarks.results import Spread


def show_peers(result: Peers) -> Shown:
    """Other systems, and what each trusts."""
    rows = [(f"{row.size} x {row.size}", row.system, *_peer_figures(row)) for row in result.rows]
    headings = ("size", "system", "online s (range)", "offline s", "online MB", "offline MB", "largest logit error")
    trust = {row.system: f"- {row.system}: {row.configuration}. Trust: {row.trust}" for row in result.rows}
    versions = ", ".join(f"{name} {version}" for name, version in result.spu_versions.items())
    title = (
        f"**{result.model}**, one image, medians of {result.runs} runs in turns. An answer counts as the same within "
        f"{result.agreement:g} of onnxruntime's logits."
    )
    in_spu = f"In SPU's environment: {versions}." if versions else ""
    blocks: list[Block] = [Table((*headings, "outcome"), rows), "\n".join(trust.values()), in_spu]
    return Shown(title, blocks, result.machine, [_list_details(result)])


def _list_details(result: Peers) -> Table:
    rows = [
        (
            f"{row.size} x {row.size}",
            row.system,
            str(row.runs),
            "not counted" if row.one_way_trips is None else str(row.one_way_trips),
            ", ".join(f"{party} {size / 1e6:,.0f}" for party, size in row.peak_rss_bytes.items()),
        )
        for row in result.rows
    ]
    return Table(("size", "system", "runs", "one-way trips", "peak memory MB"), rows)


def _peer_figures(row: PeerRow) -> tuple[str, ...]:
    outcome = row.status.value if row.reason is None else f"{row.status.value}: {row.reason}"
    if row.label_equal is False:
        outcome += "; another label"

    def show_seconds(part: Spread | None) -> str:
        if part is None:
            return ""
        return spread(part.median, part.smallest, part.largest) if part.largest else "0"

    def show_bytes(count: int | None) -> str:
        return "not counted" if count is None else megabytes(count)

    error = "" if row.max_logit_error is None else f"{row.max_logit_error:.2g}"
    sent = (show_bytes(row.online_bytes), show_bytes(row.offline_bytes))
    return (show_seconds(row.online_seconds), show_seconds(row.offline_seconds), *sent, error, outcome)


def show_ariann(result: AriannTable) -> Shown:
    """Published beside measured: three lines of theirs, then one of ours for each kind of link."""
    rows: list[tuple[str, ...]] = []
    for row in result.rows:
        theirs = row.published
        offline = "" if theirs.offline_megabytes is None else f"{theirs.offline_megabytes:,g}"
        first = (f"{theirs.preprocessing_seconds:g}", f"{theirs.online_megabytes:,g}", offline)
        name = f"{theirs.title}, batch {theirs.batch}"
        for where, value in (
            ("LAN, CPU", theirs.lan_cpu_seconds),
            ("LAN, GPU", theirs.lan_gpu_seconds),
            ("WAN, CPU", theirs.wan_cpu_seconds),
        ):
            rows.append((name, f"AriaNN, {where}", first[0], f"{value:g}", *first[1:], ""))
            name, first = "", ("", "", "")
        rows += [
            (
                "",
                f"ours, {cost.link}",
                seconds(cost.offline_seconds),
                spread(cost.online_seconds, cost.online_seconds_range.smallest, cost.online_seconds_range.largest),
                f"{cost.online_bytes / 1e6:,.2f}",
                f"{cost.offline_bytes / 1e6:,.2f}",
                str(cost.one_way_trips),
            )
            for cost in row.ours
        ]
    published = result.published
    words = (
        f"AriaNN: {published.source}; CPU {published.cpu_machine}; GPU {published.gpu_machine}; LAN {published.lan}; "
        f"WAN {published.wan}. Ours: {describe_machine(result.machine)}; medians of {result.runs} runs over "
        f"{', '.join(link.words() for link in result.links)}."
    )
    headings = ("network", "system", "offline s", "online s", "online MB", "offline MB", "one-way trips")
    errors = [
        (row.published.title, f"ours, {cost.link}", f"{cost.max_abs_error:.2g} of {cost.largest_logit:.2g}")
        for row in result.rows
        for cost in row.ours
    ]
    whole = [
        (
            one.title,
            *(f"{one.batch * value:.3g}" for value in (one.lan_cpu_seconds, one.lan_gpu_seconds, one.wan_cpu_seconds)),
        )
        for one in (row.published for row in result.rows)
    ]
    details = [
        Table(("network", "system", "largest logit error, of the largest logit"), errors),
        Table(("AriaNN's whole batch", "LAN, CPU, s", "LAN, GPU, s", "WAN, CPU, s"), whole),
    ]
    return Shown("", [Table(headings, rows), words], result.machine, details)

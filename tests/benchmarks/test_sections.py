"""Sections of the page: each shows the figures of its kept result, and its plot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ariann import AriannTable, LinkCost, Row, read_published
from benchmarks.comparison import PeerRow, Peers, Status
from benchmarks.document import page as writing
from benchmarks.emulated_links import LinkFacts, LinkResults, LinkRow, LinkRun
from benchmarks.emulation import MeasuredLink
from benchmarks.federation import AggregationCosts, FederationCost, RoundCost
from benchmarks.growth import Growth, SizeCost
from benchmarks.latency import summarise
from benchmarks.layers import Layers, LayerTime
from benchmarks.measuring import Measured, Measurement
from benchmarks.results import FORMAT, PartFile, Quantiles, Range, Spread, locate_part
from benchmarks.scale import Level, Scale, Stocking
from benchmarks.secure_aggregation import AggregationCost
from benchmarks.wiring import HOME, find_wiring
from contract.base import Strict
from tests.benchmarks.fakes import fake_case, measurement
from tests.benchmarks.test_latency_results import MACHINE, NOW, RUNS, configuration

ONE = Range(smallest=0.9, largest=1.1)
FACTS: dict[str, Any] = {"taken": "2030", "threads": 1, "machine": MACHINE, "versions": {"python": "3"}}


def keep(folder: Path, name: str, result: Strict) -> None:
    kept = PartFile[Any](
        format=FORMAT,
        part=name,
        taken=NOW.isoformat(),
        wall_seconds=1.0,
        code="c0de",
        machine=MACHINE,
        result=result.model_dump(mode="json"),
    )
    locate_part(name, folder).write_text(kept.model_dump_json())


def link_row(network: str, *, runs: int) -> LinkRow:
    return LinkRow(
        engine="masked",
        network=network,
        runs=runs,
        online_seconds=1.0,
        online_seconds_range=ONE,
        offline_seconds=0.0,
        offline_seconds_range=Range(smallest=0, largest=0),
        online_bytes=1,
        offline_bytes=1,
        one_way_trips=3,
        max_abs_error=0.1,
    )


RELAY = MeasuredLink(round_trip_milliseconds=2.05, median_round_trip_milliseconds=2.1, megabits_per_second=990.0)


def networks() -> LinkResults:
    # 250 trips that are waited for and 1 s of computing on loopback are 1.25 s over the LAN; measured there: 1 s.
    counted = replace(
        measurement(), online_bytes=0, offline_seconds=0.0, one_way_trips=251, details={"crypto_provider_sent_bytes": 0}
    )
    run = LinkRun(network="loopback", engine="masked", round=1, measurement=counted, max_abs_error=0.1)
    return LinkResults(
        format=2,
        model="tiny",
        model_version="1.0.0",
        size=8,
        batch=1,
        seed=1,
        links=(LinkFacts(link=HOME, measured=None), LinkFacts(link=find_wiring("lan"), measured=RELAY)),
        rows=(link_row("loopback", runs=3), link_row("lan", runs=1)),
        runs=(run,),
        **FACTS,
    )


def hospital() -> LinkResults:
    """The data owner's link alone is slow; two runs of 0.75 s and 2.25 s."""

    def timed(seconds: float) -> Measurement:
        return replace(measurement(seconds), details={"command_seconds": 2 * seconds})

    alone = find_wiring("hospital+1gbit")
    facts = LinkFacts(link=alone, measured=RELAY, others_measured=RELAY)
    runs = tuple(
        LinkRun(network=alone.name, engine="masked", round=turn, measurement=timed(one), max_abs_error=0.1)
        for turn, one in enumerate((9.0, 0.5, 1.5))
    )
    return networks().model_copy(update={"links": (facts,), "rows": (link_row(alone.name, runs=2),), "runs": runs})


def aggregation() -> AggregationCosts:
    def of_round(seconds: float, sent: int) -> RoundCost:
        return RoundCost(seconds=seconds, seconds_range=(0.1, 3.0), seconds_by_step={}, bytes_sent_by_a_hospital=sent)

    facts = {"machine": MACHINE, "versions": {"python": "3"}}
    return AggregationCosts(
        arithmetic=AggregationCost(
            parameters=1000,
            hospitals=3,
            ring_bits=16,
            runs=9,
            hospital_seconds=0.2,
            coordinator_seconds=0.1,
            apart_seconds=0.3,
            together_seconds=0.7,
            plain_apart_seconds=0.1,
            plain_together_seconds=0.2,
            extra_apart_seconds=0.2,
            extra_together_seconds=0.5,
            extra_together_seconds_range=(0.4, 0.6),
            bytes_sent_by_a_hospital=2_000_000,
            plain_bytes_sent_by_a_hospital=4_000_000,
            bytes_against_plain=0.5,
            **facts,  # type: ignore[arg-type]
        ),
        federation=FederationCost(
            architecture="small-cnn",
            parameters=1000,
            hospitals=3,
            rounds=7,
            secure=of_round(1.25, 2_100_000),
            plain=of_round(1.5, 4_200_000),
            extra_seconds=-0.25,
            bytes_against_plain=0.5,
            **facts,  # type: ignore[arg-type]
        ),
    )


def peers() -> Peers:
    measured = PeerRow(
        peer="masked",
        system="ours",
        configuration="as in service",
        trust="two parties and a dealer",
        size=8,
        status=Status.MEASURED,
        reason=None,
        runs=3,
        online_seconds=Spread(median=1.0, smallest=0.9, largest=1.1),
        offline_seconds=Spread(median=0.0, smallest=0.0, largest=0.0),
        setup_seconds=None,
        online_bytes=2_500_000,
        offline_bytes=None,
        one_way_trips=3,
        cpu_seconds={},
        peak_rss_bytes={},
        max_logit_error=0.01,
        label_equal=True,
        evaluations=(),
    )
    nothing = {"online_seconds": None, "offline_seconds": None, "online_bytes": None, "max_logit_error": None}
    missing = measured.model_copy(
        update=nothing | {"system": "other", "status": Status.NOT_INSTALLED, "reason": "no wheel for this machine"}
    )
    return Peers(
        model="tiny",
        model_version="1.0.0",
        model_sha256="0" * 64,
        seed=1,
        runs=3,
        agreement=0.05,
        expected=(),
        rows=(measured, missing),
        spu_versions={},
        **FACTS,
    )


def ariann() -> AriannTable:
    published = read_published()
    cost = LinkCost(
        link="lan",
        online_seconds=1.0,
        online_seconds_range=ONE,
        offline_seconds=2.0,
        offline_seconds_range=ONE,
        online_bytes=123_450_000,
        offline_bytes=1,
        weights_bytes=1,
        one_way_trips=77,
        max_abs_error=0.1,
        largest_logit=1.0,
        peak_rss_bytes={},
    )
    return AriannTable(
        format=1,
        published=published,
        rows=(Row(published=published.rows[0], ours=(cost,)),),
        links=(HOME, find_wiring("lan")),
        runs=3,
        **FACTS,
    )


def scale() -> Scale:
    quantiles = Quantiles(smallest=0.5, median=1.5, p95=2.5, largest=3.0)
    levels = tuple(
        Level(
            sessions=sessions,
            stocked=stocked,
            images=4,
            seconds=10.0,
            images_per_minute=24.0 * sessions,
            latency_seconds=quantiles,
            online_seconds=quantiles,
            peak_rss_bytes={"model_owner": 654_000_000},
        )
        for sessions in (1, 2)
        for stocked in (False, True)
    )
    return Scale(
        format=1,
        model="tiny",
        model_version="1.0.0",
        height=8,
        width=8,
        images_per_session=4,
        levels=levels,
        stocking=(Stocking(sessions=2, items=8, seconds=10.0, items_per_minute=48.0),),
        **FACTS,
    )


def growth() -> Growth:
    size = SizeCost(
        side=64, online_seconds=0.5, offline_seconds=1.5, online_bytes=10, offline_bytes=20, one_way_trips=9
    )
    return Growth(
        model="tiny",
        runs=3,
        sizes=(size,),
        online_bytes_per_pixel=321.0,
        online_microseconds_per_pixel=4.5,
        online_seconds_at_no_pixels=0.07,
        machine=MACHINE,
        versions={},
    )


def layers() -> Layers:
    def layer(name: str, kind: str, seconds: float, *, answer: float = 0.0) -> LayerTime:
        return LayerTime(
            name=name,
            kind=kind,
            elements=1,
            has_round_trip=answer > 0,
            model_owner_seconds=seconds,
            data_owner_cpu_seconds=answer,
        )

    found = (layer("stem", "Linear", 0.03), layer("relu", "Relu", 0.06, answer=0.02), layer("add", "Add", 0.0001))
    return Layers(model="tiny", size=8, runs=9, layers=found, machine=MACHINE, versions={})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    measured = Measured(runs=RUNS, not_served={"small": "takes no such image"})
    summary = summarise(measured, fake_case(tmp_path), configuration(tmp_path), MACHINE, {"python": "3.x"}, now=NOW)
    for name in ("latency-resnet18", "latency-resnet18-maxpool", "batch"):
        keep(tmp_path, name, summary)
    for name, result in {
        "networks": networks(),
        "hospital": hospital(),
        "peers": peers(),
        "ariann": ariann(),
        "scale": scale(),
        "growth": growth(),
        "layers": layers(),
        "aggregation": aggregation(),
    }.items():
        keep(tmp_path, name, result)
    return tmp_path


def test_the_page_shows_what_was_measured(results: Path) -> None:
    page = writing.render(results)
    for words in (
        "Machine: Abacus, 2 cores",
        "python 3.x",
        "| crypten | 2 (1 - 3) |",
        "| small | not measured: takes no such image |",
        "| crypten | data owner to model owner |",
        "| crypten | data owner | 0.5 | 0 |",
        "| loopback | masked | 3 | 1 (0.9 - 1.1) |",
        "| masked | 1 | 1 | 1.25 (+25%) |",
        "They are off by, lowest to highest: masked online +25%.",
        "| 8 x 8 | ours | 1 (0.9 - 1.1) | 0 | 2.5 | not counted | 0.01 | measured |",
        "not installed: no wheel for this machine |",
        "Trust: two parties and a dealer",
        "lan: 2.0 ms, 990 Mbit/s",
        "10 ms one way) at the hospital, 1gbit (1000 Mbit/s, 1 ms one way) between the others | masked | 2 |",
        "| masked | 2 | 2 (1 - 3) | 1.5 (0.75 - 2.25) |",
        "hospital+1gbit between the others: 2.0 ms, 990 Mbit/s",
        "| ours, lan | 2 | 1 (0.9 - 1.1) | 123.45 |",
        "AriaNN, WAN, CPU",
        "| 2 | from stock | 48 | 1.5 | 2.5 |",
        "48 with 2",
        "| 64 x 64 | 0.5 | 1.5 |",
        "| Relu | 1 | 60.0 | 20.0 | 67% |",
        "| arithmetic, all on one core | 0.7 | 0.2 | +0.500 | 2.0 | 0.50 |",
        "| a real federation on loopback | 1.25 (0.1 - 3) | 1.5 (0.1 - 3) | -0.250 | 2.1 | 0.50 |",
        "c0de",
    ):
        assert words in page.text, words
    assert set(page.plots) == {"traffic.svg", "networks.svg", "throughput.svg", "layers.svg"}
    assert b"all others" in page.plots["layers.svg"]


def test_writing_removes_plots_that_are_no_longer_shown(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    writing.write(results, page)
    assert (page.parent / "plots" / "networks.svg").is_file()
    locate_part("networks", results).unlink()
    writing.write(results, page)
    assert not (page.parent / "plots" / "networks.svg").exists()
    assert page.read_text() == writing.render(results).text

"""Several images in one session, between real servers: exact answers, one item each, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from contract.errors import PeerReported, Refused
from contract.identity import Role
from contract.ticket import Engine
from data_owner.diagnosis import Batch, Diagnosis
from secure_computation.admission import present_ticket
from secure_computation.deal_tag import receive_deal_tag
from secure_computation.wire import Phase
from tests.end_to_end.federation import HOSPITAL, SILENT, TRUST_CENTRE, Federation
from tests.end_to_end.models import radiograph
from tests.end_to_end.stocking import Parties, answer_to, running


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("chests")
    return [radiograph(folder / f"{seed}.dcm", seed=seed) for seed in range(3)]


def submit(parties: Parties, paths: Sequence[Path], *, engine: Engine = Engine.MASKED) -> list[Diagnosis]:
    with parties.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        submissions = [diagnoser.read(path, entry, force=False) for path in paths]
        results = diagnoser.submit(submissions, entry, engine=engine, progress=SILENT)
    diagnoses = [result for result in results if isinstance(result, Diagnosis)]
    assert len(diagnoses) == len(results)
    return diagnoses


def check(parties: Parties, paths: Sequence[Path], diagnoses: Sequence[Diagnosis], *, stocked: bool) -> None:
    for index, (path, diagnosis) in enumerate(zip(paths, diagnoses, strict=True)):
        parties.check(diagnosis, path, stocked=stocked)
        assert diagnosis.file == str(path)
        assert diagnosis.batch == Batch(images=len(paths), index=index)


def test_each_answer_of_a_batch_is_the_references(parties: Parties, chests: list[Path]) -> None:
    diagnoses = submit(parties, chests)
    check(parties, chests, diagnoses, stocked=False)
    single = parties.diagnose(chests[0])
    assert single.batch == Batch(images=1, index=0)
    assert {diagnosis.one_way_trips for diagnosis in diagnoses} == {single.one_way_trips}
    assert sorted(parties.dealt) == [Role.DATA_OWNER] * 2 + [Role.MODEL_OWNER] * 2  # one channel each a session


def test_a_batch_is_recorded_as_such(parties: Parties, chests: list[Path]) -> None:
    with parties.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        submissions = [diagnoser.read(path, entry, force=False) for path in chests[:2]]
        diagnoser.submit(submissions, entry, engine=Engine.MASKED, progress=SILENT)
        assert client.session(client.opened[0].id).images == 2


def test_stocked_items_serve_a_batch_where_there_are_enough(parties: Parties, chests: list[Path]) -> None:
    for _ in range(3):
        parties.stock()
    check(parties, chests[:2], submit(parties, chests[:2]), stocked=True)
    (left,) = parties.items(parties.data_owner_stock)
    check(parties, chests[:2], submit(parties, chests[:2]), stocked=False)
    assert parties.items(parties.data_owner_stock) == [left]
    parties.check(parties.diagnose(chests[2]), chests[2], stocked=True)
    parties.never_twice()


def test_a_model_owner_that_lost_the_half_of_one_image(parties: Parties, chests: list[Path]) -> None:
    """The other image's halves go as well: the data owner has consumed them."""
    for _ in range(2):
        parties.stock()
    next(parties.model_owner_stock.iterdir()).unlink()
    diagnoses = submit(parties, chests[:2])
    check(parties, chests[:2], diagnoses, stocked=False)
    assert "no longer has what was stocked" in diagnoses[0].warnings[0].text
    assert parties.items(parties.data_owner_stock) == parties.items(parties.model_owner_stock) == []


def test_items_that_are_not_one_for_each_image(parties: Parties) -> None:
    parties.stock()
    (item,) = parties.items(parties.model_owner_stock)
    for items in ((item,), (item, item), (item, "0" * 64, "1" * 64)):
        ticket = parties.federation.ticket(engine=Engine.MASKED, images=2, items=items)
        with pytest.raises(PeerReported, match="ticket is malformed"):
            answer_to(parties, ticket, list(items))
    assert parties.items(parties.model_owner_stock) == [item]


def test_a_batch_is_dealt_once(parties: Parties) -> None:
    ticket = parties.federation.ticket(engine=Engine.MASKED, images=2)
    with parties.federation.dial(parties.federation.dealer_url, HOSPITAL, TRUST_CENTRE) as channel:
        present_ticket(channel, ticket)
        channel.set_phase(Phase.OFFLINE)
        seeds = set()
        for _ in range(2):
            seeds |= {channel.receive_seed(step="seed"), channel.receive_seed(step="seed of the second mask")}
            receive_deal_tag(channel)
        assert len(seeds) == 4
        channel.send_end(step="material received")
    with parties.federation.dial(parties.federation.dealer_url, HOSPITAL, TRUST_CENTRE) as channel:
        present_ticket(channel, ticket)
        with pytest.raises(PeerReported, match="material-spent"):
            channel.receive_hello(step="any")


def test_the_model_owner_limits_the_images_of_a_session(
    federation: Federation, tmp_path: Path, chests: list[Path]
) -> None:
    with running(federation, tmp_path / "parties", images_per_session=2) as parties:
        with pytest.raises(PeerReported, match="at most 2 images are evaluated in one session here; use --batch 2"):
            submit(parties, chests)
        check(parties, chests[:2], submit(parties, chests[:2]), stocked=False)


def test_the_other_engine_evaluates_one_image_a_session(parties: Parties, chests: list[Path]) -> None:
    with pytest.raises(Refused, match="'crypten' evaluates one image a session; use --engine masked or --batch 1"):
        submit(parties, chests[:2], engine=Engine.CRYPTEN)

"""Our own engines, measured as a hospital would meet them: four processes on one machine and the real command line.

The parties do not know that they are measured. What is reported is what `data-owner diagnose --json` reports to its
user; memory is read from outside.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from benchmarks.case import Case, Pictures
from benchmarks.cost_model import waited_share
from benchmarks.emulation import deployed_over
from benchmarks.measuring import LinkTraffic, Measurement, NotServed, Opener
from benchmarks.processes import cpu_seconds, last_words, peak_rss_bytes, run_watched
from contract.errors import ComputationFailed
from contract.ticket import BATCHED_ENGINES, Engine
from data_owner.diagnosis import Bytes, Diagnosis
from demonstration.commands import make_command
from demonstration.deployment import Deployment
from model_owner.link_profiles import LOOPBACK, LinkProfile
from model_owner.settings import ModelOwnerSettings

Figure = TypeVar("Figure", int, float)

LARGEST_BATCH: Final = ModelOwnerSettings.model_fields["images_per_session"].default
"""What a model owner allows who sets nothing else."""


def product(engine: Engine, link: LinkProfile = LOOPBACK) -> Opener:
    """Opener of one engine of ours, with such a link between every two parties."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[ProductEngine | NotServed]:
        if case.batch > 1 and engine not in BATCHED_ENGINES:
            yield NotServed("evaluates one image a session")
            return
        if case.batch > LARGEST_BATCH:
            yield NotServed(f"the model owner takes {LARGEST_BATCH} images a session, as it is set up here")
            return
        folder = case.folder / f"product-{engine.value}-{link.name}"
        folder.mkdir()
        with deployed_over(folder, [case.model_folder], link) as deployment:
            yield ProductEngine(engine, case, deployment, timeout_seconds)

    return opened


class ProductEngine:
    """Running servers. Every measurement is one new call of the command line; the servers stay, as in service."""

    def __init__(self, engine: Engine, case: Case, deployment: Deployment, timeout_seconds: float) -> None:
        """Measure on servers that run already."""
        self._engine = engine
        self._case = case
        self._deployment = deployment
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Submit the pictures once."""
        (found,) = submit(
            self._deployment,
            pictures.images,
            engine=self._engine,
            batch=self._case.batch,
            timeout_seconds=self._timeout_seconds,
        )
        if self._engine is not Engine.MASKED:
            return found
        # What the cost model needs of the network is kept with the run: the model of that name may change later.
        return replace(found, details={**found.details, "waited_share": waited_share(self._case.network)})


def submit(
    deployment: Deployment, images: Sequence[Path], *, engine: Engine, batch: int = 1, timeout_seconds: float
) -> tuple[Measurement, ...]:
    """Let one `data-owner diagnose` submit the images, `batch` in each session, and measure every session.

    Memory and processor time are of the whole command. Raises ComputationFailed if it does not answer every image, and
    DeadlineExceeded after `timeout_seconds`.
    """
    before = _read_of_servers(deployment, cpu_seconds)
    arguments = ["diagnose", *map(str, images), "--config", str(deployment.data_owner_settings)]
    if batch > 1:
        arguments += ["--batch", str(batch)]
    finished = run_watched(
        make_command("data-owner", [*arguments, "--engine", engine.value, "--json", "--force"]),
        name="data-owner",
        environment=deployment.environment,
        folder=deployment.folder,
        timeout_seconds=timeout_seconds,
    )
    try:
        answers = [Diagnosis.model_validate_json(line) for line in finished.output.splitlines()]
    except ValidationError as error:
        raise ComputationFailed("data-owner diagnose --json did not print a diagnosis a line: report this") from error
    if [one.batch.images for one in answers] != [batch] * len(images):
        raise ComputationFailed(
            f"data-owner diagnose did not answer {len(images)} image(s), {batch} in a session: report this"
        )
    spent = {party: now - before[party] for party, now in _read_of_servers(deployment, cpu_seconds).items()}
    return tuple(
        _measurement(
            answers[first : first + batch],
            {"data_owner": finished.peak_rss_bytes} | servers_memory(deployment),
            {"data_owner": finished.cpu_seconds} | spent,
        )
        for first in range(0, len(answers), batch)
    )


def _measurement(session: Sequence[Diagnosis], memory: dict[str, int], spent: dict[str, float]) -> Measurement:
    first = session[0]  # seconds, bytes and trips are the session's, the same in each
    return Measurement(
        online_seconds=first.seconds.online,
        offline_seconds=first.seconds.offline,
        online_bytes=first.bytes.online,
        offline_bytes=first.bytes.offline,
        one_way_trips=first.one_way_trips,
        peak_rss_bytes=memory,
        logits=tuple(logit for one in session for logit in one.logits or ()),
        links=_link_traffic(first.bytes),
        cpu_seconds=spent,
        details={
            "data_owner_sent_bytes": first.bytes.data_owner_sent,
            "model_owner_sent_bytes": first.bytes.model_owner_sent,
            "crypto_provider_sent_bytes": first.bytes.crypto_provider_sent,
        },
    )


def servers_memory(deployment: Deployment) -> dict[str, int]:
    """Highest resident memory of each server so far, in bytes. Raises ComputationFailed if one has ended."""
    return _read_of_servers(deployment, peak_rss_bytes)


def _read_of_servers(deployment: Deployment, read: Callable[[int], Figure | None]) -> dict[str, Figure]:
    found = {}
    for party, process_id in deployment.process_ids().items():
        value = read(process_id)
        if value is None:
            log = last_words(deployment.folder / f"{party.replace('_', '-')}.log")
            raise ComputationFailed(f"{party} ended during the benchmark: {log}")
        found[party] = value
    return found


def _link_traffic(counted: Bytes) -> tuple[LinkTraffic, ...]:
    return tuple(
        LinkTraffic(
            sender=one.sender.value.replace("-", "_"),
            receiver=one.receiver.value.replace("-", "_"),
            offline_bytes=one.offline,
            online_bytes=one.online,
        )
        for one in counted.links
    )

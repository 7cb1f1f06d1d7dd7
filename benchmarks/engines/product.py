"""Our own engines, measured as a hospital would meet them: four processes on one machine and the real command line.

The parties do not know that they are measured. What is reported is what `data-owner diagnose --json` reports to its
user; memory is read from outside.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from pydantic import ValidationError

from benchmarks.case import Case, Pictures
from benchmarks.emulation import deployed_over
from benchmarks.measuring import Link as Traffic
from benchmarks.measuring import Measurement, NotServed, Opener
from benchmarks.overlap import waited_share
from benchmarks.processes import cpu_seconds, last_words, peak_rss_bytes, run_watched
from contract.errors import ComputationFailed
from contract.ticket import BATCHED_ENGINES
from contract.ticket import Engine as Protocol
from data_owner.diagnosis import Bytes, Diagnosis
from demonstration.commands import make_command
from demonstration.deployment import Deployment
from model_owner.settings import ModelOwnerSettings
from secure_computation.links import LOOPBACK, Link

Figure = TypeVar("Figure", int, float)

LARGEST_BATCH: Final = ModelOwnerSettings.model_fields["images_per_session"].default
"""What a model owner allows who sets nothing else."""


def product(protocol: Protocol, link: Link = LOOPBACK) -> Opener:
    """Opener of one engine of ours, with such a link between every two parties."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[ProductEngine | NotServed]:
        if case.batch > 1 and protocol not in BATCHED_ENGINES:
            yield NotServed("evaluates one image a session")
            return
        if case.batch > LARGEST_BATCH:
            yield NotServed(f"the model owner takes {LARGEST_BATCH} images a session, as it is set up here")
            return
        folder = case.folder / f"product-{protocol.value}-{link.name}"
        folder.mkdir()
        with deployed_over(folder, [case.model_folder], link) as deployment:
            yield ProductEngine(protocol, case, deployment, timeout_seconds)

    return opened


class ProductEngine:
    """A running federation. Every measurement is one new call of the command line; the servers stay, as in service."""

    def __init__(self, protocol: Protocol, case: Case, deployment: Deployment, timeout_seconds: float) -> None:
        """Measure on servers that run already."""
        self._protocol = protocol
        self._case = case
        self._deployment = deployment
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Submit the pictures once."""
        before = self._servers_cpu_seconds()
        arguments = ["diagnose", *map(str, pictures.images), "--config", str(self._deployment.data_owner_settings)]
        if self._case.batch > 1:
            arguments += ["--batch", str(self._case.batch)]
        finished = run_watched(
            make_command("data-owner", [*arguments, "--engine", self._protocol.value, "--json", "--force"]),
            name="data-owner",
            environment=self._deployment.environment,
            folder=self._deployment.folder,
            timeout_seconds=self._timeout_seconds,
        )
        diagnoses = _parse(finished.output, images=self._case.batch)
        diagnosis = diagnoses[0]  # seconds, bytes and trips are the session's, the same in each
        return Measurement(
            online_seconds=diagnosis.seconds.online,
            offline_seconds=diagnosis.seconds.offline,
            online_bytes=diagnosis.bytes.online,
            offline_bytes=diagnosis.bytes.offline,
            one_way_trips=diagnosis.one_way_trips,
            peak_rss_bytes={"data_owner": finished.peak_rss_bytes} | self._servers_memory(),
            logits=tuple(logit for one in diagnoses for logit in one.logits or ()),
            links=_links(diagnosis.bytes),
            cpu_seconds={"data_owner": finished.cpu_seconds}
            | {party: spent - before[party] for party, spent in self._servers_cpu_seconds().items()},
            details={
                "data_owner_sent_bytes": diagnosis.bytes.data_owner_sent,
                "model_owner_sent_bytes": diagnosis.bytes.model_owner_sent,
                "crypto_provider_sent_bytes": diagnosis.bytes.crypto_provider_sent,
            }
            | self._overlap(),
        )

    def _overlap(self) -> dict[str, float]:
        """What the cost model needs of the network, kept with the run: the model of that name may change later."""
        return {"waited_share": waited_share(self._case.network)} if self._protocol is Protocol.MASKED else {}

    def _servers_memory(self) -> dict[str, int]:
        return self._of_servers(peak_rss_bytes)

    def _servers_cpu_seconds(self) -> dict[str, float]:
        return self._of_servers(cpu_seconds)

    def _of_servers(self, read: Callable[[int], Figure | None]) -> dict[str, Figure]:
        found = {}
        for party, process_id in self._deployment.process_ids().items():
            value = read(process_id)
            if value is None:
                log = last_words(self._deployment.folder / f"{party.replace('_', '-')}.log")
                raise ComputationFailed(f"{party} ended during the benchmark: {log}")
            found[party] = value
        return found


def _links(counted: Bytes) -> tuple[Traffic, ...]:
    return tuple(
        Traffic(
            sender=one.sender.value.replace("-", "_"),
            receiver=one.receiver.value.replace("-", "_"),
            offline_bytes=one.offline,
            online_bytes=one.online,
        )
        for one in counted.links
    )


def _parse(output: str, *, images: int) -> list[Diagnosis]:
    try:
        found = [Diagnosis.model_validate_json(line) for line in output.splitlines()]
    except ValidationError as error:
        raise ComputationFailed("data-owner diagnose --json did not print a diagnosis a line: report this") from error
    if len(found) != images or [one.batch.images for one in found] != [images] * images:
        raise ComputationFailed(f"data-owner diagnose did not answer {images} image(s) in one session: report this")
    return found

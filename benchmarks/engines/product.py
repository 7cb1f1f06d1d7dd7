"""Our own engines, measured as a hospital would meet them: four processes on loopback and the real command line.

The parties do not know that they are measured. What is reported is what `data-owner diagnose --json` reports to its
user; memory is read from outside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from benchmarks.case import Case
from benchmarks.configuration import THREADS
from benchmarks.measuring import Measurement, Opener
from benchmarks.processes import peak_rss_bytes, run_watched
from contract.errors import ComputationFailed
from contract.ticket import Engine as Protocol
from data_owner.diagnosis import Diagnosis
from demonstration.commands import command
from demonstration.deployment import Deployment, deployed


def product(protocol: Protocol) -> Opener:
    """Opener of one engine of ours."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[ProductEngine]:
        folder = case.folder / f"product-{protocol.value}"
        folder.mkdir()
        with deployed(folder, [case.model_folder], threads=THREADS) as deployment:
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

    def measure(self) -> Measurement:
        """Submit the image once."""
        arguments = ["diagnose", str(self._case.image), "--config", str(self._deployment.data_owner_settings)]
        finished = run_watched(
            command("data-owner", [*arguments, "--engine", self._protocol.value, "--json", "--force"]),
            name="data-owner",
            environment=self._deployment.environment,
            folder=self._deployment.folder,
            timeout_seconds=self._timeout_seconds,
        )
        diagnosis = _parse(finished.output)
        return Measurement(
            online_seconds=diagnosis.seconds.online,
            offline_seconds=diagnosis.seconds.offline,
            online_bytes=diagnosis.bytes.online,
            offline_bytes=diagnosis.bytes.offline,
            one_way_trips=diagnosis.one_way_trips,
            peak_rss_bytes={"data_owner": finished.peak_rss_bytes} | self._servers_memory(),
            logits=diagnosis.logits or (),
            details={
                "data_owner_sent_bytes": diagnosis.bytes.data_owner_sent,
                "model_owner_sent_bytes": diagnosis.bytes.model_owner_sent,
                "crypto_provider_sent_bytes": diagnosis.bytes.crypto_provider_sent,
            },
        )

    def _servers_memory(self) -> dict[str, int]:
        found = {}
        for party, process_id in self._deployment.process_ids().items():
            peak = peak_rss_bytes(process_id)
            if peak is None:
                log = Path(self._deployment.folder / f"{party.replace('_', '-')}.log")
                raise ComputationFailed(f"{party} ended during the benchmark: {log.read_text()[-300:]}")
            found[party] = peak
        return found


def _parse(output: str) -> Diagnosis:
    try:
        return Diagnosis.model_validate_json(output)
    except ValidationError as error:
        raise ComputationFailed("data-owner diagnose --json did not print one diagnosis: report this") from error

"""Many images through one command line, and the memory that the parties took: what `ariann` and `scale` share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmarks.processes import last_words, peak_rss_bytes, run_watched
from contract.errors import ComputationFailed
from contract.ticket import Engine
from data_owner.diagnosis import Diagnosis
from demonstration.commands import make_command
from demonstration.deployment import Deployment


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """Answers in the order of the images, and each party's highest resident memory, in bytes."""

    diagnoses: tuple[Diagnosis, ...]
    peak_rss_bytes: dict[str, int]


def submit(deployment: Deployment, images: Sequence[Path], *, timeout_seconds: float) -> Submitted:
    """Let one `data-owner diagnose` submit all images, one after the other, to the masked engine.

    Raises ComputationFailed where it does not answer every image, and DeadlineExceeded after `timeout_seconds`.
    """
    arguments = ["diagnose", *map(str, images), "--config", str(deployment.data_owner_settings)]
    finished = run_watched(
        make_command("data-owner", [*arguments, "--engine", Engine.MASKED.value, "--json", "--force"]),
        name="data-owner",
        environment=deployment.environment,
        folder=deployment.folder,
        timeout_seconds=timeout_seconds,
    )
    try:
        diagnoses = tuple(Diagnosis.model_validate_json(line) for line in finished.output.splitlines())
    except ValidationError as error:
        raise ComputationFailed("data-owner diagnose --json did not print diagnoses: report this") from error
    if len(diagnoses) != len(images):
        raise ComputationFailed(f"data-owner answered {len(diagnoses)} of {len(images)} images: report this")
    memory = {"data_owner": finished.peak_rss_bytes} | memory_of_servers(deployment)
    return Submitted(diagnoses=diagnoses, peak_rss_bytes=memory)


def memory_of_servers(deployment: Deployment) -> dict[str, int]:
    """Highest resident memory of each server so far, in bytes. Raises ComputationFailed where one has ended."""
    found = {}
    for party, process_id in deployment.process_ids().items():
        peak = peak_rss_bytes(process_id)
        if peak is None:
            log = deployment.folder / f"{party.replace('_', '-')}.log"
            raise ComputationFailed(f"{party} ended during the benchmark: {last_words(log)}")
        found[party] = peak
    return found

"""The page as a clinician starts it, before a federation of processes."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demonstration.commands import end, make_command
from demonstration.demo import MODEL_FOLDER
from demonstration.deployment import Deployment, deploy


@contextmanager
def real_federation(model_folder: Path = MODEL_FOLDER) -> Iterator[Deployment]:
    """Four parties on loopback, by default with the shipped model."""
    with tempfile.TemporaryDirectory() as name, deploy(Path(name), [model_folder]) as deployment:
        yield deployment


@contextmanager
def started_page(deployment: Deployment, arguments: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """`data-owner ui` as a process: the address that it printed, and its process id."""
    settings = ["ui", "--no-browser", "--config", str(deployment.data_owner_settings), *arguments]
    command = make_command("data-owner", settings)
    with subprocess.Popen(command, env=deployment.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        finally:
            end(process)

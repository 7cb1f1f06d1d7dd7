"""`data-owner` run in this process, and its settings changed."""

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from data_owner import command
from demonstration.deployment import Deployment
from tests.end_to_end.federation import closed_port

WRONG_SETTINGS: dict[str, tuple[dict[str, Any], int, str]] = {
    "front end down": (
        {"inference_service": {"url": f"https://127.0.0.1:{closed_port()}"}},
        4,
        "the inference service at https://127.0.0.1:\\d+ cannot be reached: check that it runs, or correct the URL",
    ),
    "another account's key": (
        {"inference_service": {"api_key": "ei-00000000-CANARYCANARYCANARY"}},
        2,
        "key",
    ),
    "dealer down": (
        {"crypto_providers": [{"organisation": "trust-centre", "url": f"ws://127.0.0.1:{closed_port()}/v2/dealing"}]},
        4,
        "crypto-provider of trust-centre at 127.0.0.1:\\d+ cannot be reached .*: check the address and that",
    ),
    "model owner down": (
        {"model_owners": [{"organisation": "north-lab", "url": f"ws://127.0.0.1:{closed_port()}/v2/inference"}]},
        4,
        "model-owner of north-lab at 127.0.0.1:\\d+ cannot be reached .*: check the address and that",
    ),
    "dealer not pinned": ({"crypto_providers": [{"organisation": "another"}]}, 3, "does not pin; nothing was sent"),
    "unknown setting": ({"colour": "blue"}, 5, "colour: .*; correct the file"),
}
"""What is changed, the exit status, and the words."""


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str


def in_process(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Outcome:
    """The command line in this process: CrypTen is loaded once for all."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["data-owner", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as left:
            command.main()
    captured = capfd.readouterr()
    return Outcome(int(left.value.code or 0), captured.out, captured.err)


def changed_settings(deployment: Deployment, target: Path, **changes: Any) -> Path:
    """The data owner's settings with these changes, at `target`; its relative paths are made absolute."""
    settings = tomllib.loads(deployment.data_owner_settings.read_text())
    settings["data_folder"] = str(deployment.folder / settings["data_folder"])
    settings["ticket_keys"] = [str(deployment.folder / key) for key in settings["ticket_keys"]]
    settings["credentials"] = {name: str(deployment.folder / path) for name, path in settings["credentials"].items()}
    settings["at_rest"]["key_file"] = str(deployment.folder / settings["at_rest"]["key_file"])
    front_end = settings["inference_service"]
    for file in ("authority", "revocations"):
        front_end[file] = str(deployment.folder / front_end[file])
    for key, value in changes.items():
        settings[key] = settings[key] | value if isinstance(value, dict) and key in settings else value
    target.write_text(tomli_w.dumps(settings))
    return target

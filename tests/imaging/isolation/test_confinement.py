"""Each layer of the confinement holds by itself: files and connections stay shut if another layer fails."""

import subprocess
import sys
from pathlib import Path

import pytest

ATTEMPTS = """
import errno, os, resource, socket
from imaging.isolation import confinement
held = os.open("/dev/null", os.O_RDONLY)
{layer}
def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def connect():
    with socket.socket() as made:
        made.connect(("127.0.0.1", 9))
tried = (lambda: os.open("/etc/hostname", os.O_RDONLY), connect, lambda: os.read(held, 1))
os.write(1, " ".join(map(outcome, tried)).encode())
"""


@pytest.mark.parametrize(
    ("layer", "outcomes"),
    [
        ("", "done ECONNREFUSED done"),
        ("confinement.limit_resources(cpu_seconds=60, address_space=4 << 30)", "EMFILE EMFILE done"),
        ("confinement.give_up_privileges(); confinement.forbid_files_and_ports()", "EACCES EACCES done"),
        ("confinement.refuse_other_system_calls()", "EPERM EPERM done"),
    ],
    ids=["none", "limits", "Landlock", "seccomp"],
)
def test_a_layer_shuts_files_and_connections(layer: str, outcomes: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS.format(layer=layer)],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.decode() == outcomes

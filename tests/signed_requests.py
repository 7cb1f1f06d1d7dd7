"""Certificates for tests, without the questions that `federation enroll` asks."""

from collections.abc import Sequence
from pathlib import Path

from authority.enrolment import read_request
from authority.signing import Authority


def sign_request(authority: Path, request: Path, *, days: int = 365, hosts: Sequence[str] = ()) -> bytes:
    """Sign a request as its sender's identity was confirmed, with the authority in folder `authority`."""
    return Authority.open(authority).sign(read_request(request), days=days, hosts=hosts)

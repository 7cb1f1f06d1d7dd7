"""How long earlier runs took on this machine: what the time left is told from. Nothing of any image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from contract.base import Strict
from contract.files import try_to_replace

_MAX_BYTES = 1 << 20
_MAX_KINDS = 64
_NEW_SHARE = 0.5
"""Of a new run, in what is expected of the next."""

Seconds = Annotated[float, Field(ge=0, lt=1e7, allow_inf_nan=False)]


class Profile(Strict):
    """When one kind of run reached its points, in seconds from its start."""

    points: dict[str, Seconds]
    total: Seconds


class _File(Strict):
    profiles: dict[str, Profile]


@dataclass
class Run:
    """One run as it is measured, beside what is expected of it."""

    expected: Profile | None
    points: dict[str, float] = field(default_factory=dict)
    """Seconds from the start, by point reached."""

    def reach(self, point: str, *, at: float) -> None:
        """Note a point, `at` seconds from the start."""
        self.points[point] = at

    def left(self, *, at: float) -> float | None:
        """Seconds left by what earlier runs took from the last point on; None if nothing is known. Never below 0."""
        if self.expected is None or not self.points:
            return None
        point, reached = next(reversed(self.points.items()))
        if point not in self.expected.points:
            return None
        return max(0.0, self.expected.total - self.expected.points[point] - (at - reached))

    def fraction(self, *, at: float) -> float | None:
        """Share of the whole that is done, by the same."""
        left = self.left(at=at)
        return None if left is None else min(1.0, at / max(at + left, 1e-9))


class Timings:
    """Profiles by kind of run, kept in one file."""

    def __init__(self, path: Path) -> None:
        """Read what is kept; a damaged file is as good as none."""
        self._path = path
        try:
            content = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
            self._profiles = dict(_File.model_validate_json(content).profiles)
        except (OSError, ValidationError):
            self._profiles = {}

    def expected(self, kind: str) -> Profile | None:
        """What a run of a kind (say, of a model version with material in stock) takes; None if none was measured."""
        return self._profiles.get(kind)

    def finish(self, kind: str, run: Run, *, total: float) -> None:
        """Keep a run that came to its end. Where the disk will not, only this process remembers."""
        before = self._profiles.pop(kind, None)
        if before is None or before.points.keys() != run.points.keys():
            profile = Profile(points=run.points, total=total)
        else:
            points = {name: _mix(before.points[name], at) for name, at in run.points.items()}
            profile = Profile(points=points, total=_mix(before.total, total))
        self._profiles[kind] = profile
        while len(self._profiles) > _MAX_KINDS:
            del self._profiles[next(iter(self._profiles))]
        try_to_replace(self._path, _File(profiles=self._profiles).model_dump_json().encode())


def _mix(old: float, new: float) -> float:
    return old + _NEW_SHARE * (new - old)

"""The coordinator's part in keeping every hospital's course up to date: it passes on how each sum was opened.

A sum is kept on the disk until every hospital has followed it. So a hospital that was away goes on where it was, by the
same sums as everybody, and nobody has to vouch for what they led to.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from contract.errors import PeerViolation
from federated_learning import checkpoints
from federated_learning.rounds.letters import POSITION, Answers, Letter
from federated_learning.rounds.round_orders import ATTEMPT

ASK = Callable[[Mapping[str, Letter]], Answers]
POSITION_BYTES = 8


class Followers:
    """Where each hospital stands, and the sums that some of them still lack."""

    def __init__(self, folder: Path, hospitals: tuple[str, ...]) -> None:
        """`folder` keeps the sums, one file for each position."""
        self._folder, self._hospitals = folder, hospitals
        self._positions: dict[str, int] = {}

    def keep(self, position: int, *, attempt: int, parts: Mapping[str, bytes]) -> None:
        """Write what moves a course on from `position`. Durable when this returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = {"facts": np.array(json.dumps({ATTEMPT: attempt}))}
        arrays = {f"part/{name}": np.frombuffer(content, np.uint8) for name, content in parts.items()}
        checkpoints.save(facts | arrays, self._path(position))

    def bring(self, names: frozenset[str], position: int, *, ask: ASK) -> tuple[frozenset[str], dict[str, str]]:
        """Send `names` the sums that they lack: who stands at `position` now, and why the others do not."""
        failures: dict[str, str] = {}
        while behind := [name for name in sorted(names - failures.keys()) if self._at(name, position) != position]:
            letters = {}
            for name in behind:
                letter = self._letter(self._at(name, position))
                if letter is None:
                    failures[name] = (
                        f"stands at sum {self._at(name, position)} of {position}, from which it cannot go on: its "
                        "state folder or the coordinator's is another one or an old copy"
                    )
                else:
                    letters[name] = letter
            if letters:
                failures |= self._sent(letters, ask(letters))
        self._forget()
        return names - failures.keys(), failures

    def doubt(self, name: str) -> None:
        """Ask a hospital anew where it stands."""
        self._positions.pop(name, None)

    def _at(self, name: str, position: int) -> int:
        """Where a hospital stands; one that was not heard of is taken to lack the last sum, and says if it does not."""
        return self._positions.get(name, max(0, position - 1))

    def _sent(self, letters: Mapping[str, Letter], answers: Answers) -> dict[str, str]:
        failures = dict(answers.failures)
        for name, answer in answers.letters.items():
            try:
                content = answer.part(POSITION)
                now = int.from_bytes(content[:POSITION_BYTES], "little")
            except PeerViolation as error:
                failures[name] = str(error)
                continue
            if name in self._positions and now <= self._positions[name]:
                failures[name] = "does not follow the last sum"
            self._positions[name] = now
        return failures

    def _letter(self, position: int) -> Letter | None:
        path = self._path(position)
        if not path.exists():
            return None
        arrays = checkpoints.read(path)
        parts = {name.removeprefix("part/"): arrays[name].tobytes() for name in arrays if name.startswith("part/")}
        return Letter(header={POSITION: position} | json.loads(str(arrays["facts"])), parts=parts)

    def _forget(self) -> None:
        """Delete what every hospital has followed, but for the last, by which a new process asks where they stand."""
        if len(self._positions) == len(self._hospitals):
            for path in self._folder.glob("*.npz"):
                if int(path.stem) < min(self._positions.values()) - 1:
                    path.unlink()

    def _path(self, position: int) -> Path:
        return self._folder / f"{position:06d}.npz"

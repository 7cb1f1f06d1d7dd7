"""What a hospital's runs may have told of its patients: a file for each population, that only grows.

Each line is an entry: a run that was charged, with all its rounds, before its first vector; or a vector that was
released in one of its rounds, by its hash. A run's charge is never given back. A second vector for the same round of
the same run is refused: the mean of two has half the noise.

Entries are chained by their hashes, so that one which was altered, removed or moved is found. An end that was cut off,
or an old copy that was put back, is found by what the `state` folder of the hospital remembers of the last entry; if
both are set back together it is not.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from contract.base import Name, Sha256, Strict
from contract.errors import ConfigurationError, Refused
from contract.files import append, explaining_failure, private_folder, read_bounded, replace, sync_folder
from federated_learning.flower.processes import hold_lock
from federated_learning.privacy.accounting import Releases, compute_epsilon, write_epsilon
from federated_learning.privacy.settings import PrivacyLimits

MAX_BYTES: Final = 1 << 28
BEGINNING: Final = "0" * 64
LOCK_SECONDS: Final = 60.0
WAY_OUT: Final = "put the right file back; without it this hospital cannot say what it has spent"


class Charge(Strict):
    """A run, as far as it costs."""

    training: Sha256
    """Of the federation and the run's name."""
    run: Name
    outsider: Releases
    """As the coordinator and whoever has the model see it."""
    insider: Releases
    """As all other hospitals together see it."""


class Vector(Strict):
    """A noised vector that was released, or will be at once."""

    training: Sha256
    round: Annotated[int, Field(ge=1)]
    digest: Sha256


class Entry(Strict):
    """One line."""

    number: Annotated[int, Field(ge=1)]
    at: AwareDatetime
    charge: Charge | None = None
    vector: Vector | None = None
    previous: Sha256
    """Hash of the entry before; zeros for the first."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.charge is None) == (self.vector is None):
            raise ValueError("an entry is a charge or a vector")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the entry, hexadecimal."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    def write(self) -> bytes:
        """The entry's line: JSON with the hash as its last field."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True) | {"hash": self.hash}).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """What `write` wrote; None of anything else."""
        try:
            fields = json.loads(line)
            stated = fields.pop("hash")
            entry = cls.model_validate_json(json.dumps(fields))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return entry if entry.hash == stated else None


class Remembered(Strict):
    """The last entry, as it is kept in another folder."""

    number: int
    hash: Sha256


class Spent(Strict):
    """Epsilon of all charges together, at the limits' delta."""

    outsider: float
    insider: float


class Ledger:
    """One population's. Several processes may use it."""

    def __init__(self, limits: PrivacyLimits, *, state: Path) -> None:
        """`state`: the hospital's folder, which remembers how far the ledger had come."""
        self.limits = limits
        self._path = limits.ledger / f"{limits.population}.jsonl"
        self._memory = state / f"ledger-{limits.population}.json"
        self._parsed: tuple[bytes, tuple[Entry, ...]] = b"", ()
        """What was read last, so that each round parses one line more and not the years before."""

    def read(self) -> tuple[Entry, ...]:
        """All entries. Raises ConfigurationError if they are not what was written."""
        with self._locked():
            return self._read()

    def charges(self) -> tuple[Charge, ...]:
        """What was charged, in order."""
        return tuple(entry.charge for entry in self.read() if entry.charge is not None)

    def spent(self, *, beside: Charge | None = None) -> Spent:
        """What all runs cost together, and `beside` if it were one more."""
        return self._add_up(self.charges(), beside)

    def require_room(self, charge: Charge) -> None:
        """Raise Refused if the run is not charged yet and there is not enough left for it."""
        self._require_room(self.read(), charge)

    def charge(self, charge: Charge) -> None:
        """Charge a run, once. Durable when this returns. Raises Refused if there is not enough left."""
        with self._locked():
            entries = self._read()
            if not self._require_room(entries, charge):
                self._append(entries, charge=charge)

    def note(self, vector: Vector) -> None:
        """Write down that a vector is released, before it is. The same one may be released again.

        Raises Refused for another one of the same round, or of a run that was not charged for it.
        """
        with self._locked():
            entries = self._read()
            known = {one.training: one for entry in entries if (one := entry.charge) is not None}
            run = known.get(vector.training)
            if run is None or vector.round > run.outsider.rounds:
                raise Refused(f"{self._path}: round {vector.round} was not charged: nothing is sent")
            for entry in entries:
                old = entry.vector
                if old is not None and (old.training, old.round) == (vector.training, vector.round):
                    if old.digest == vector.digest:
                        return
                    raise Refused(
                        f"{self._path}: this hospital answered round {vector.round} of run '{run.run}' before, with "
                        "other noise; both together would hide less. Its state folder was lost or set back: take part "
                        "in a new run under a new name, with another training.seed"
                    )
            self._append(entries, vector=vector)

    def _add_up(self, charges: tuple[Charge, ...], beside: Charge | None) -> Spent:
        every = (*charges, *([] if beside is None else [beside]))
        return Spent(
            outsider=compute_epsilon([one.outsider for one in every], delta=self.limits.delta),
            insider=compute_epsilon([one.insider for one in every], delta=self.limits.delta),
        )

    def _require_room(self, entries: tuple[Entry, ...], charge: Charge) -> bool:
        """Whether it is charged already."""
        charges = tuple(one for entry in entries if (one := entry.charge) is not None)
        for old in charges:
            if old.training == charge.training:
                if old != charge:
                    raise Refused(
                        f"{self._path}: run '{charge.run}' was charged with other noise or rounds: give its settings "
                        "as they were, or take part in a new run under a new name"
                    )
                return True
        before, after = self._add_up(charges, None), self._add_up(charges, charge)
        for who, name, spent, would, limit in (
            ("outsiders", "outsider_epsilon", before.outsider, after.outsider, self.limits.outsider_epsilon),
            (
                "the other hospitals together",
                "insider_epsilon",
                before.insider,
                after.insider,
                self.limits.insider_epsilon,
            ),
        ):
            if would > limit:
                raise Refused(
                    f"run '{charge.run}' would bring what {who} may learn of a patient of '{self.limits.population}' "
                    f"to epsilon {write_epsilon(would)}, from {write_epsilon(spent)} that are spent, and this "
                    f"hospital's limit is {limit:g}: agree on more noise or fewer rounds, or let this hospital's "
                    f"people decide on another privacy_limits.{name}"
                )
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        private_folder(self._path.parent, check=False)
        with hold_lock(self._path.with_suffix(".lock"), seconds=LOCK_SECONDS, what="another process with this ledger"):
            yield

    def _read(self) -> tuple[Entry, ...]:
        content = read_bounded(self._path, limit=MAX_BYTES) if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            # A power cut in the middle of a line: nobody was told that it was written, and nothing was sent.
            with explaining_failure(self._path):
                os.truncate(self._path, len(whole))
        known, parsed = self._parsed
        if not whole.startswith(known):
            known, parsed = b"", ()
        entries, previous = list(parsed), parsed[-1].hash if parsed else BEGINNING
        for number, line in enumerate(whole[len(known) :].splitlines(), len(parsed) + 1):
            entry = Entry.parse(line)
            if entry is None or (entry.number, entry.previous) != (number, previous):
                raise ConfigurationError(
                    f"{self._path}: line {number} is not what was written, or does not follow the one before: entries "
                    f"were altered, removed or moved; {WAY_OUT}"
                )
            entries.append(entry)
            previous = entry.hash
        self._compare(entries)
        self._parsed = whole, tuple(entries)
        return tuple(entries)

    def _compare(self, entries: list[Entry]) -> None:
        """Raise ConfigurationError if the entry that the state folder remembers is not there."""
        if not self._memory.exists():
            return
        try:
            known = Remembered.model_validate_json(read_bounded(self._memory, limit=1 << 12))
        except ValidationError:
            raise ConfigurationError(f"{self._memory}: cannot be read; remove it after a look at the ledger") from None
        if known.number > len(entries) or entries[known.number - 1].hash != known.hash:
            raise ConfigurationError(
                f"{self._path}: lacks entry {known.number}, which was there before: its end was cut off, or an old "
                f"copy was put in its place; {WAY_OUT}"
            )

    def _append(
        self, entries: tuple[Entry, ...], *, charge: Charge | None = None, vector: Vector | None = None
    ) -> None:
        entry = Entry(
            number=len(entries) + 1,
            at=datetime.now(UTC),
            charge=charge,
            vector=vector,
            previous=entries[-1].hash if entries else BEGINNING,
        )
        with explaining_failure(self._path):
            append(self._path, entry.write())
            if not entries:
                sync_folder(self._path.parent)
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        remembered = Remembered(number=entry.number, hash=entry.hash)
        replace(self._memory, json.dumps(remembered.model_dump()).encode())

"""A hospital's own work in a run with differential privacy: one noised vector for each round, kept and sent again.

The vector without noise exists in memory only, while it is computed. What is stored is what may be released. The ledger
has it before it is sent, so that no crash and no repeated attempt makes a second one of the same round.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from federated_learning import checkpoints
from federated_learning.privacy.gradients import sum_clipped_gradients
from federated_learning.privacy.ledger import Charge, Ledger, Vector
from federated_learning.privacy.mechanism import Mechanism
from federated_learning.privacy.sampling import count_each_picture, draw_patients, group_by_patient
from federated_learning.rounds.letters import Step
from federated_learning.rounds.local_work import LocalData, LocalWork, normalise
from federated_learning.rounds.participants import Participants
from federated_learning.rounds.round_orders import RoundOrder, TrainOrder, hash_order, identify_training
from federated_learning.rounds.settings import RunSettings
from federated_learning.torch_networks import network_with
from secure_computation.randomness import Seed

VECTOR = "noised.npz"


@dataclass(frozen=True, kw_only=True, repr=False)
class Noised:
    """What one round may release."""

    key: str
    """Hexadecimal hash of the order that it answers."""
    vector: NDArray[np.uint32]


class PrivateWork:
    """The noised vectors of one hospital in one run."""

    def __init__(
        self,
        work: LocalWork,
        folder: Path,
        *,
        charge: Charge,
        mechanism: Mechanism,
        ledger: Ledger,
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None],
    ) -> None:
        """`folder` keeps the last round's vector. `charge`: what the whole run costs."""
        self._work, self._path, self._charge = work, folder / VECTOR, charge
        self._mechanism, self._ledger, self._say, self._progress = mechanism, ledger, say, progress
        self._noised: Noised | None = None

    def check(self) -> None:
        """Raise Refused if the ledger cannot pay for the run."""
        self._ledger.require_room(self._charge)

    def begin(self, order: RoundOrder) -> None:
        """Read the images, and charge the run. Raises ConfigurationError, Refused."""
        data = self._work.prepare(order)
        privacy, patients = self._mechanism.privacy, len(self._group(data))
        if privacy.unit == "patient" and not data.training.source.names_patients:
            raise ConfigurationError(
                "the images have no patient numbers, and [privacy] hides one patient: give the table a column "
                '`patient`, or agree on unit = "picture", which hides a patient with several pictures less than '
                "epsilon says"
            )
        if patients > privacy.patients:
            raise ConfigurationError(
                f"this hospital alone has {patients} {privacy.unit}s to train on, and [privacy] says "
                f"{privacy.patients} for all hospitals together: agree on an estimate that is not too small"
            )
        self._ledger.charge(self._charge)

    def train(self, order: TrainOrder, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint32]:
        """The noised vector of this order's round: the stored one if there is one, else a new one."""
        key = hash_order(Step.TRAIN, order, {}).hex()
        noised = self._noised or self._read()
        if noised is None or noised.key != key:
            noised = Noised(key=key, vector=self._compute(order, weights))
            checkpoints.save({"key": np.array(key), "vector": noised.vector}, self._path)
        digest = hashlib.sha256(noised.vector.tobytes()).hexdigest()
        self._ledger.note(Vector(training=self._charge.training, round=order.round, digest=digest))
        self._noised = noised
        return noised.vector

    def _compute(self, order: TrainOrder, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint32]:
        data, seed = self._work.prepare(order), Seed.fresh()
        training, privacy = order.training, self._mechanism.privacy
        patients = self._group(data)
        drawn = draw_patients(len(patients), rate=privacy.sampling_rate, seed=seed, step=0)
        what = f"round {order.round}: training"
        found = sum_clipped_gradients(
            network_with(training, {name: torch.from_numpy(value) for name, value in weights.items()}),
            normalise(data.training, order),
            data.training.labels,
            [patients[index] for index in drawn],
            clip=privacy.clip,
            steps=self._mechanism.steps,
            size=order.task.size,
            batch=order.task.batch,
            label_smoothing=training.label_smoothing,
            progress=lambda done, total: self._progress(what, done, total),
        )
        left_out = f", {found.left_out} of them left out, as their gradient is not finite" if found.left_out else ""
        self._say(
            f"round {order.round}: {found.patients} of {len(patients)} {privacy.unit}s drawn{left_out}; noise added"
        )
        return self._mechanism.add_noise(found.total, seed)

    def _group(self, data: LocalData) -> list[NDArray[np.int64]]:
        """The places of the images of each patient, or of each picture."""
        if self._mechanism.privacy.unit == "picture":
            return count_each_picture(len(data.training.examples))
        return group_by_patient([example.patient for example in data.training.examples])

    def _read(self) -> Noised | None:
        if not self._path.exists():
            return None
        kept = checkpoints.read(self._path)
        return Noised(key=str(kept["key"]), vector=kept["vector"])


def plan_charge(settings: RunSettings, participants: Participants, mechanism: Mechanism, *, rounds: int) -> Charge:
    """What a run of so many rounds costs each patient."""
    return Charge(
        training=identify_training(participants, settings.run),
        run=settings.run,
        outsider=mechanism.outsider(rounds),
        insider=mechanism.insider(rounds),
    )

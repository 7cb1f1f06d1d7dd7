"""A federation without a network: hospitals' sessions that a coordinator asks directly."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.model_card import InputSpecification, Modality
from federated_learning.augmentation import NONE
from federated_learning.data_source.table import read_table
from federated_learning.loopback.sites import Site, divide_roles, draw_data, write_tables
from federated_learning.privacy.settings import Privacy, PrivacyLimits
from federated_learning.rounds.aggregating import Event
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.rounds.hospital_session import HospitalSession
from federated_learning.rounds.letters import Answers, Letter, Step, read_trouble
from federated_learning.rounds.participants import (
    FEDERATION,
    Participants,
    make_hospital_keys,
    make_participants,
    read_participants,
    read_signing_key,
)
from federated_learning.rounds.settings import (
    Aggregation,
    CoordinatorSettings,
    HospitalData,
    HospitalSettings,
    Sums,
    Waiting,
)
from federated_learning.run_records import Description, RoundRecord, RoundTraffic
from federated_learning.training_settings import Stage, TrainingSettings
from plumbing.settings import Address

CLASSES, ROLES, SIDE = ("fine", "middling", "coarse"), ("one", "two", "three"), 16

DESCRIPTION = Description(
    name="drawn",
    version="0.1.0",
    title="Stripes",
    intended_use="tests",
    input=InputSpecification(
        modalities=(Modality.OTHER,), height=SIDE, width=SIDE, mean=(0.4,), standard_deviation=(0.2,)
    ),
    classes=CLASSES,
    data_set="drawn",
    training="Drawn pictures.",
    citations=(),
)
TRAINING = TrainingSettings(
    architecture="small-cnn",
    stages=(Stage(size=SIDE, epochs=2, batch=6),),
    warm_up=0.5,
    peak_rate=0.003,
    augmentation=NONE,
)
"""Few tensors, and no change of images: a run takes a third of a second."""
WAITING = Waiting(start=0.5, work=30, step=30, offline=0.1, together=0.1)

Fault = Callable[[Step, str, Letter], Letter | None]
"""Changes a hospital's answer to a step, or loses it (None)."""


def honest(_step: Step, _name: str, answer: Letter) -> Letter | None:
    return answer


class LocalExchange:
    """Asks sessions in this process. `fault` sees every answer."""

    def __init__(self, sessions: dict[str, HospitalSession]) -> None:
        self.sessions = sessions
        self.fault: Fault = honest
        self.asked: list[tuple[Step, str]] = []
        self.view: list[tuple[Step, str, Letter]] = []
        """All that reached the coordinator."""

    def online(self) -> frozenset[str]:
        return frozenset(self.sessions)

    def ask(
        self, step: Step, letters: Mapping[str, Letter], *, seconds: float, answered: Callable[[str], None]
    ) -> Answers:
        answers = Answers()
        for name, letter in letters.items():
            self.asked.append((step, name))
            session = self.sessions.get(name)
            answer = None if session is None else self.fault(step, name, session.answer(step, letter))
            if answer is None:
                answers.failures[name] = "went away"
            else:
                answers.add(name, answer, read_trouble(answer))
                self.view.append((step, name, answer))
                answered(name)
        return answers


class LocalTraining:
    """Hospitals with drawn pictures, and coordinators as often as one is wanted."""

    def __init__(
        self,
        folder: Path,
        *,
        hospitals: int,
        sums: Sums = Sums(threshold=3),  # noqa: B008  (frozen)
        training: TrainingSettings = TRAINING,
        description: Description = DESCRIPTION,
        privacy: Privacy | None = None,
        limit: float = 1000.0,
    ):
        self.folder, self.training, self.description, self.sums = folder, training, description, sums
        self.privacy, self.limit = privacy, limit
        self.data = folder / "drawn"
        self.manifest = draw_data(
            self.data, classes=CLASSES, roles=ROLES, validation_role="held-out", side=SIDE, hospitals=6
        )
        self.sites: tuple[Site, ...] = divide_roles(hospitals, ROLES)
        public = [make_hospital_keys(site.name, folder / site.name) for site in self.sites]
        self.participants: Participants = read_participants(
            make_participants(public, folder / "coordinator", host="127.0.0.1", port=9092)
        )
        source = read_table(self.manifest, folder=self.data, classes=CLASSES)
        self.tables = write_tables(
            source, folder, data=self.data, hospitals=self.sites, validation_role="held-out", at_most=4
        )
        self.said: list[str] = []
        self.exchange = LocalExchange({site.name: self.session(site.name) for site in self.sites})
        self.events: list[Event] = []
        self.reports: list[RoundTraffic] = []
        self.lines: list[RoundRecord] = []

    @property
    def names(self) -> tuple[str, ...]:
        return self.participants.names

    def hospital_settings(self, name: str) -> HospitalSettings:
        return HospitalSettings(
            name=name,
            run="test",
            federation=self.folder / "coordinator" / FEDERATION,
            keys=self.folder / name,
            state=self.folder / name / "state",
            data=HospitalData(
                folder=self.data, table=self.tables[name], training=("train",), validation=("validation",)
            ),
            threads=1,
            description=self.description,
            training=self.training,
            aggregation=self.sums,
            exchange_statistics=self.privacy is None,
            privacy=self.privacy,
            privacy_limits=None if self.privacy is None else self.limits(name),
        )

    def limits(self, name: str) -> PrivacyLimits:
        return PrivacyLimits(
            ledger=self.folder / name / "ledger",
            population="drawn",
            outsider_epsilon=self.limit,
            insider_epsilon=2 * self.limit,
            delta=1e-3,
        )

    def session(
        self, name: str, settings: HospitalSettings | None = None, federation: Participants | None = None
    ) -> HospitalSession:
        """A new process of this hospital, as it were."""
        return HospitalSession(
            settings or self.hospital_settings(name),
            federation or self.participants,
            say=self.said.append,
        )

    def signing_key(self, name: str) -> Ed25519PrivateKey:
        return read_signing_key(self.folder / name, self.participants.find(name))

    def settings(self, *, output: str = "run", attempts: int = 3) -> CoordinatorSettings:
        (self.folder / output).mkdir(exist_ok=True)
        aggregation = Aggregation(**self.sums.model_dump(), attempts=attempts)
        return CoordinatorSettings(
            run="test",
            federation=self.folder / "coordinator" / FEDERATION,
            keys=self.folder / "coordinator",
            output=self.folder / output,
            listen=Address(host="127.0.0.1", port=9092),
            description=self.description,
            training=self.training,
            aggregation=aggregation,
            exchange_statistics=self.privacy is None,
            privacy=self.privacy,
            waiting=WAITING,
        )

    def coordinator(self, settings: CoordinatorSettings | None = None) -> Coordinator:
        return Coordinator(
            settings or self.settings(),
            self.participants,
            self.exchange,
            show=self.events.append,
            finished=self.finish,
        )

    def finish(self, line: RoundRecord, traffic: RoundTraffic) -> None:
        self.lines.append(line)
        self.reports.append(traffic)

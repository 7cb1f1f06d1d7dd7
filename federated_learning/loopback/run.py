"""A training on one machine, `scripts/federate`: real processes, keys, certificates and messages, near each other.

It does what people on several machines do by hand (docs/federated-learning.md): makes every hospital's keys, gathers
them in federation.json, writes each settings file, and starts the hospitals; the coordinator is this process itself.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from contract.base import Name
from contract.errors import ConfigurationError
from federated_learning.augmentation import NONE
from federated_learning.data_source.examples import DataSource, choose_training_roles, choose_validation_role
from federated_learning.data_source.table import read_table
from federated_learning.faults import explain_fault
from federated_learning.flower.processes import Child, free_port, stop_all
from federated_learning.flower.running import run_coordinator
from federated_learning.loopback.arguments import ImageFolder
from federated_learning.loopback.sites import (
    TRAINING,
    VALIDATION,
    Site,
    count_patients,
    divide_roles,
    draw_data,
    write_tables,
)
from federated_learning.privacy.accounting import Shares, compute_epsilon, find_noise, round_up, write_epsilon
from federated_learning.privacy.mechanism import Mechanism
from federated_learning.privacy.settings import Privacy, PrivacyAim, PrivacyLimits
from federated_learning.privacy.words import describe_privacy
from federated_learning.recipe import (
    PEDIATRIC_PNEUMONIA,
    PEDIATRIC_PNEUMONIA_RECIPE,
    NamedDescription,
    fit_to_description,
)
from federated_learning.rounds.aggregating import FAILED, Event
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.rounds.letters import Step
from federated_learning.rounds.participants import (
    FEDERATION,
    Participants,
    make_hospital_keys,
    make_participants,
    read_participants,
)
from federated_learning.rounds.round_orders import count_elements
from federated_learning.rounds.settings import (
    Aggregation,
    CoordinatorSettings,
    HospitalData,
    HospitalSettings,
    Sums,
    Waiting,
)
from federated_learning.run_records import RoundRecord, RoundTraffic
from federated_learning.secure_aggregation.terms import least_threshold
from federated_learning.torch_networks import find_shapes
from federated_learning.training_settings import Stage, TrainingSettings, plan_steps
from plumbing.listening import require_free_port
from plumbing.settings import Address, PartySettings, settings_config

HOST = "127.0.0.1"
SMOKE_SIDE, SMOKE_IMAGES = 32, 6
FALLS_OUT, FALLS_OUT_ROUND = "hospital-d", 1
"""Whom the smoke run kills in the middle of which round."""


class LoopbackSettings(PartySettings):
    """A training of hospitals that are processes of this machine."""

    model_config = settings_config("FEDERATED_LEARNING_LOOPBACK_")

    run: Name = "loopback"
    description: NamedDescription | None = None
    """None: it has to be given with the images."""
    training: TrainingSettings = PEDIATRIC_PNEUMONIA_RECIPE
    rounds: Annotated[int, Field(ge=1)] | None = None
    training_roles: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Of the manifest; divided by patient if there are more hospitals than roles. None: `train`."""
    validation_role: str | None = None
    """Divided among the hospitals by patient. None: `validation`."""
    images_per_class: Annotated[int, Field(ge=2)] | None = None
    """Of each hospital; None: all."""
    exchange_statistics: bool = True
    aggregation: Aggregation = Aggregation()
    privacy: PrivacyAim | None = None
    """Noise at each hospital, as much as this epsilon needs for the patients that the manifest has; None: without."""
    waiting: Waiting = Waiting(start=300.0, work=6 * 3600.0, step=120.0, offline=20.0, together=60.0)
    threads: Annotated[int, Field(ge=1)] = 1
    """Of each hospital."""
    one_falls_out: bool = False
    """Kill one of four hospitals in the middle of the first round, and start it again: what the smoke run shows."""


def smoke_settings(hospitals: int = 4) -> LoopbackSettings:
    """Small enough for a test: two rounds, a narrow network, one hospital that falls out and holds up no round."""
    side = {"height": SMOKE_SIDE, "width": SMOKE_SIDE}
    return LoopbackSettings(
        run="smoke",
        description=PEDIATRIC_PNEUMONIA.model_copy(
            update={
                "name": "smoke",
                "title": "A model of a smoke run",
                "intended_use": "None: trained for seconds, to see that everything works together.",
                "data_set": "what the smoke run was given, or pictures that it drew",
                "training": "Trained for seconds on what the smoke run was given; without images it draws stripes.",
                "citations": (),
                "input": PEDIATRIC_PNEUMONIA.input.model_copy(update=side),
            }
        ),
        training=TrainingSettings(
            architecture="resnet10-narrow",
            stages=(Stage(size=SMOKE_SIDE, epochs=2, batch=4),),
            peak_rate=3e-3,
            augmentation=NONE,
        ),
        images_per_class=SMOKE_IMAGES,
        aggregation=Aggregation(threshold=least_threshold(hospitals)),
        waiting=Waiting(start=90.0, work=90.0, step=60.0, offline=1.0, together=60.0),
        one_falls_out=True,
    )


M = TypeVar("M", bound=BaseModel)


def _build(kind: type[M], **values: Any) -> M:
    """Settings out of other settings. Raises ConfigurationError if they do not fit each other."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigurationError(f"{explain_fault(error)}; correct the command or the file of --config") from error


class Loopback:
    """Everything about one training in one folder."""

    def __init__(self, settings: LoopbackSettings, folder: Path, *, hospitals: int, images: ImageFolder | None) -> None:
        """Prepare keys, tables and settings files. Without images pictures are drawn. Raises ConfigurationError."""
        self.settings, self.folder = settings, folder
        if settings.description is None:
            raise ConfigurationError(
                "the settings lack a description: say with --description or there what the model is"
            )
        self.description = settings.description
        folder.mkdir(parents=True, exist_ok=True)
        self.data, self.manifest = self._draw(hospitals) if images is None else (images.folder, images.manifest)
        source = self.source()
        self.training_roles = choose_training_roles(source, settings.training_roles)
        self.validation_role = choose_validation_role(source, settings.validation_role)
        self.sites = divide_roles(hospitals, self.training_roles)
        tables = write_tables(
            source,
            folder,
            data=self.data,
            hospitals=self.sites,
            validation_role=self.validation_role,
            at_most=settings.images_per_class,
        )
        self.participants = self._make_participants()
        self.privacy = self._plan_privacy(count_patients(tables.values()), named=source.names_patients)
        for site in self.sites:
            self._write_settings(site, tables[site.name])
        self.coordinator_settings = _build(
            CoordinatorSettings,
            **self._common(),
            keys=self._coordinator,
            output=folder / "run",
            listen=Address.parse(self.participants.coordinator),
            rounds=settings.rounds,
            training_roles=self.training_roles,
            validation_role=self.validation_role,
            aggregation=settings.aggregation,
            waiting=settings.waiting,
        )

    def source(self) -> DataSource:
        """The images of all hospitals."""
        return read_table(self.manifest, folder=self.data, classes=self.description.classes)

    @property
    def _coordinator(self) -> Path:
        return self.folder / "coordinator"

    def _common(self) -> dict[str, Any]:
        """What everybody's settings say alike, besides `aggregation`."""
        return {
            "run": self.settings.run,
            "federation": (self._coordinator / FEDERATION).resolve(),
            "description": self.description,
            "training": self.settings.training,
            "exchange_statistics": self.settings.exchange_statistics,
            "privacy": self.privacy,
        }

    def _plan_privacy(self, patients: int, *, named: bool) -> Privacy | None:
        """The noise for the epsilon that was asked for. Here, somebody sees how many patients there are in all."""
        aim = self.settings.privacy
        if aim is None:
            return None
        agreed = aim.model_dump(exclude={"epsilon"}) | {"unit": "patient" if named else "picture"}
        rounds = len(plan_steps(self.settings.training, rate=aim.sampling_rate))
        shares = Shares(threshold=self._threshold(), each_alone=aim.each_alone)
        # Delta is looked at first: for one that is too large no noise needs to be found.
        _build(Privacy, **agreed, patients=patients, noise_multiplier=1.0)
        noise = find_noise(aim.epsilon, delta=aim.delta, sampling_rate=aim.sampling_rate, rounds=rounds)
        share = shares.insider if aim.each_alone else shares.outsider
        return _build(Privacy, **agreed, patients=patients, noise_multiplier=round_up(noise / share))

    def describe_privacy(self) -> tuple[str, ...]:
        """What this run tells of a patient, to whom; nothing without noise."""
        if self.privacy is None:
            return ()
        numbers = "the images have no patient numbers: each picture counts as a patient, and a patient with several is "
        less = () if self.privacy.unit == "patient" else (numbers + "hidden less than epsilon says",)
        mechanism, rounds = self._plan_mechanism(self.privacy)
        return (*less, *describe_privacy(mechanism, rounds=rounds, hospitals=len(self.sites)))

    def _plan_mechanism(self, privacy: Privacy) -> tuple[Mechanism, int]:
        """How noise is added, and in how many rounds."""
        training = self.settings.training
        elements = count_elements(find_shapes(fit_to_description(training, self.description)))
        mechanism = Mechanism.plan(privacy, hospitals=len(self.sites), threshold=self._threshold(), elements=elements)
        return mechanism, len(plan_steps(training, rate=privacy.sampling_rate))

    def _threshold(self) -> int:
        return self.settings.aggregation.survivors(len(self.sites))

    def _limit_privacy(self, site: Site) -> PrivacyLimits | None:
        """Of a hospital: as much as this run costs, and no more."""
        aim, privacy = self.settings.privacy, self.privacy
        if aim is None or privacy is None:
            return None
        mechanism, rounds = self._plan_mechanism(privacy)
        insider = compute_epsilon([mechanism.insider(rounds)], delta=aim.delta)
        return PrivacyLimits(
            ledger=(self.folder / site.name / "ledger").resolve(),
            population=self.description.name,
            outsider_epsilon=aim.epsilon,
            insider_epsilon=float(write_epsilon(insider)),
            delta=aim.delta,
        )

    def _draw(self, hospitals: int) -> tuple[Path, Path]:
        drawn, settings = self.folder / "drawn", self.settings
        return drawn, draw_data(
            drawn,
            classes=self.description.classes,
            roles=settings.training_roles or (TRAINING,),
            validation_role=settings.validation_role or VALIDATION,
            side=self.description.input.height,
            hospitals=hospitals,
        )

    def _make_participants(self) -> Participants:
        """Every hospital's keys, and federation.json: made once, so that a stopped run goes on."""
        if not (self._coordinator / FEDERATION).exists():
            public = [make_hospital_keys(site.name, self.folder / site.name / "keys") for site in self.sites]
            make_participants(public, self._coordinator, host=HOST, port=free_port())
        return read_participants(self._coordinator / FEDERATION)

    def _write_settings(self, site: Site, table: Path) -> None:
        """A hospital's own file."""
        folder = (self.folder / site.name).resolve()
        settings = _build(
            HospitalSettings,
            **self._common(),
            name=site.name,
            keys=folder / "keys",
            state=folder / "state",
            data=HospitalData(folder=self.data.resolve(), table=table.resolve(), validation=(VALIDATION,)),
            threads=self.settings.threads,
            privacy_limits=self._limit_privacy(site),
            aggregation=Sums.model_validate(self.settings.aggregation.model_dump(include=set(Sums.model_fields))),
        )
        content = settings.model_dump(mode="json", exclude_none=True)
        (folder / "hospital.toml").write_text(tomli_w.dumps(content), encoding="utf-8")

    @contextmanager
    def hospitals(self) -> Iterator[dict[str, Child]]:
        """The hospitals' processes, while the block lasts."""
        with ExitStack() as stack:
            running: dict[str, Child] = {}
            stack.callback(stop_all, running)
            for site in self.sites:
                running[site.name] = self.start(site.name)
            yield running

    def start(self, name: str) -> Child:
        """Start one hospital's process, with the command that it would have on its own machine."""
        folder = self.folder / name
        arguments = ["-m", "federated_learning.command", "hospital", "--config", str(folder / "hospital.toml")]
        return Child([*arguments, "--with-parent"], log=folder / "hospital.log", environment=os.environ)

    def read_last_line(self, name: str) -> str:
        """What the hospital said last."""
        path = self.folder / name / "hospital.log"
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        return next((f"  {name} says: {line}" for line in reversed(lines) if line), f"  {name} says nothing")

    def run(
        self,
        *,
        show: Callable[[Event], None],
        finished: Callable[[Coordinator, RoundRecord, RoundTraffic], None],
        say: Callable[[str], None],
    ) -> Coordinator:
        """Run the training to its end."""
        listen = self.coordinator_settings.listen  # chosen when the folder was made, perhaps days ago
        require_free_port(listen.host, listen.port, setting="a new folder for --output")
        with self.hospitals() as running:
            fall_out = self._fall_out(running, say) if self.settings.one_falls_out and FALLS_OUT in running else None

            def shown(event: Event) -> None:
                show(event)
                if event.what == FAILED and event.hospital is not None:
                    say(self.read_last_line(event.hospital))  # here, all hospitals' screens are this one
                if fall_out is not None:
                    fall_out(event)

            return run_coordinator(self.coordinator_settings, show=shown, finished=finished)

    def _fall_out(self, running: dict[str, Child], say: Callable[[str], None]) -> Callable[[Event], None]:
        """Kills a hospital when its masked update is due, and starts it again when the others finished without it."""
        awaited = [Step.MASKED.name, Step.UNMASK.name]

        def follow(event: Event) -> None:
            if event.round != FALLS_OUT_ROUND or event.hospital is not None or [event.what] != awaited[:1]:
                return
            del awaited[0]
            if event.what == Step.MASKED.name:
                running[FALLS_OUT].kill()
                say(f"{FALLS_OUT} is killed in the middle of round {event.round}")
            else:
                running[FALLS_OUT].stop()
                running[FALLS_OUT] = self.start(FALLS_OUT)
                say(f"{FALLS_OUT} is started again")

        return follow

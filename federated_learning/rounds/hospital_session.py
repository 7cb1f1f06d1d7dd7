"""A hospital's side of every round: its data, its trainer, and its part in secure aggregation. No network here.

It answers what follows from its own settings and from the sums that it opened itself, and nothing else.

Kept on disk, so that a crash costs nothing that was finished: the course of the run, the trainer's state, the update of
the last round and what rounding cut off of it, and with whom each question was answered. The secrets of an aggregation
are in memory only; after a crash the round is made again with fresh ones.
"""

import json
import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError, EncryptedInferenceError, PeerViolation, Refused
from contract.files import replace
from federated_learning import checkpoints
from federated_learning.data_statistics import add_pixels
from federated_learning.privacy.ledger import Ledger
from federated_learning.rounds.course import Course, OpenedSum, find_difference
from federated_learning.rounds.letters import ERROR, POSITION_BYTES, Letter, Part, Step, Trouble
from federated_learning.rounds.local_work import LocalWork
from federated_learning.rounds.participants import Participants, read_signing_key
from federated_learning.rounds.private_work import PrivateWork, plan_charge
from federated_learning.rounds.round_orders import (
    PRESENT,
    PURPOSES,
    WEIGHTS,
    EvaluateOrder,
    O,
    Question,
    SurveyOrder,
    TrainOrder,
    derive_terms,
    hash_parts,
    read_attempt,
    read_order,
)
from federated_learning.rounds.settings import HospitalSettings
from federated_learning.secure_aggregation.encoding import LARGEST, compute_weight, decode_exact, encode_exact
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.opening import Opening

HISTORY, COURSE = "answered.json", "course.npz"
MAX_WORDS = 1000
LARGEST_LOSS = 1000.0
"""Of one image, as it is counted."""


class HospitalSession:
    """Answers the coordinator's messages. One for the life of the process."""

    def __init__(
        self,
        settings: HospitalSettings,
        participants: Participants,
        *,
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None] = lambda _what, _done, _all: None,
    ) -> None:
        """`say` prints a line at the hospital; `progress(what, done, all)` moves its bar. Raises ConfigurationError."""
        self._settings, self._participants, self._say = settings, participants, say
        self._signing_key = read_signing_key(settings.keys, participants.find(settings.name))
        self._folder = settings.state / settings.run
        self._folder.mkdir(parents=True, exist_ok=True)
        self._history = _read_history(settings.state)
        self._work = LocalWork(settings, self._folder, say=say, progress=progress)
        self._progress = progress
        self._attempt: tuple[RingVector, HospitalAggregation | None] | None = None
        """One answer on its way, and the aggregation that will hide it (None: in the clear)."""
        self._course = Course(settings, participants)
        self._restore_course()
        self._private = self._plan_private_work()
        self._last: tuple[bytes, Letter] | None = None
        self.finished = False
        """Whether the coordinator said that the run is over."""

    def begin(self) -> None:
        """Say what this hospital takes part in. Raises ConfigurationError if its images are not there."""
        self._work.check_listed()
        for line in self._course.describe():
            self._say(line)
        if self._private is not None:
            self._private.check()

    def _plan_private_work(self) -> PrivateWork | None:
        """What a run with [privacy] needs; None without."""
        mechanism, settings = self._course.mechanism, self._settings
        if mechanism is None or settings.privacy_limits is None:
            return None
        return PrivateWork(
            self._work,
            self._folder,
            charge=plan_charge(settings, self._participants, mechanism, rounds=len(self._course.plan())),
            mechanism=mechanism,
            ledger=Ledger(settings.privacy_limits, state=settings.state),
            say=self._say,
            progress=self._progress,
        )

    def answer(self, step: Step, letter: Letter) -> Letter:
        """What goes back to the coordinator for a message of this step."""
        return self.respond(lambda: (step, letter))

    def respond(self, read: Callable[[], tuple[Step, Letter]]) -> Letter:
        """What goes back to the coordinator for the message that `read` takes apart: an answer, or why there is none.

        Everything that a message can cause ends here: whatever the coordinator sends, the hospital is there for the
        next message. Words stay on this hospital's own screen.
        """
        try:
            return self._answer(*read())
        except EncryptedInferenceError as error:
            return self._refuse(_find_trouble(error), str(error))
        except Exception as error:  # noqa: BLE001  (the one boundary between the coordinator's messages and this process)
            last = traceback.extract_tb(error.__traceback__)[-1]
            return self._refuse(
                Trouble.FAILED,
                f"the coordinator's message could not be answered, by a fault in {Path(last.filename).name}, line "
                f"{last.lineno}. Nothing was sent; report that line to the maintainers",
            )

    def _refuse(self, trouble: Trouble, words: str) -> Letter:
        """Show the words, in which the coordinator may have had a part, and send the reason."""
        self._attempt = None
        who = f"hospital {self._settings.name}"
        shown = "".join(one if one.isprintable() else "?" for one in words[:MAX_WORDS])
        self._say(shown if who in shown else f"{who}: {shown}")
        return Letter(header={ERROR: trouble.value})

    def _answer(self, step: Step, letter: Letter) -> Letter:
        question = _digest(step, letter)
        if self._attempt is not None and self._last is not None and self._last[0] == question:
            return self._last[1]  # it was asked twice: the coordinator was not sure that the first one came
        if step in PURPOSES:
            self._attempt = None
        steps: dict[Step, Callable[[Letter], Mapping[str, bytes]]] = {
            Step.SURVEY: self._survey,
            Step.TRAIN: self._train,
            Step.EVALUATE: self._evaluate,
            Step.SHARES: self._share,
            Step.MASKED: self._mask,
            Step.CONFIRM: self._confirm,
            Step.UNMASK: self._unmask,
            Step.PLAIN: self._send_plainly,
            Step.FOLLOW: self._follow,
            Step.FINISH: self._finish,
        }
        answer = Letter(parts=steps[step](letter))
        self._last = (question, answer)
        return answer

    def _survey(self, letter: Letter) -> Mapping[str, bytes]:
        question, attempt = self._accept(Step.SURVEY, letter, SurveyOrder)
        if self._private is not None:
            self._private.begin(question.order)
            return self._begin(question, attempt, {PRESENT: np.array(1)})
        data = self._work.prepare(question.order)
        values = {
            "validation": np.array(0 if data.validation is None else len(data.validation.labels)),
            "weight": np.array(compute_weight(len(data.training.labels))),
            "classes": np.array(list(data.training.class_counts.values())),
        }
        if question.order.exchange_statistics:
            sums = add_pixels(data.training.images.in_unit_range())
            values |= {name: np.array(total) for name, total in sums.items()}
        return self._begin(question, attempt, values)

    def _train(self, letter: Letter) -> Mapping[str, bytes]:
        question, attempt = self._accept(Step.TRAIN, letter, TrainOrder)
        layout = question.layout
        if self._private is not None:
            vector = self._private.train(question.order, self._course.weights)
            return self._begin(question, attempt, {}, update=vector)
        trained = self._work.train(question.order, self._course.weights, layout)
        sums = {
            "stopped": np.array(int(trained.stopped)),
            "loss": np.array(_bound_loss(trained.loss, 1)),
            LARGEST: trained.largest,
        }
        values = {name: sums[name] for name in layout.exact}
        return self._begin(question, attempt, values, update=trained.encoded)

    def _evaluate(self, letter: Letter) -> Mapping[str, bytes]:
        question, attempt = self._accept(Step.EVALUATE, letter, EvaluateOrder)
        sums = self._work.evaluate(question.order, self._course.average)
        loss = _bound_loss(sums.loss, sums.examples)
        values = {"correct": np.array(sums.correct), "loss": np.array(loss)}
        return self._begin(question, attempt, values)

    def _follow(self, letter: Letter) -> Mapping[str, bytes]:
        """Open the next sum again and move on by it. The answer says how many sums this hospital has followed."""
        if letter.header.get(Part.POSITION) == self._course.position:
            self._attempt = None
            parts = dict(letter.parts)
            if not self._course.position:
                self._course.begin_with(parts.pop(WEIGHTS, b""))
            question = self._course.ask(self._course.next_step)
            read = self._open_sum if question.order.secure else self._read_plain_sum
            self._course.follow(read(question, read_attempt(letter), parts))
            state = self._course.state() | {"agreed": np.array(self._course.hash_agreement())}
            checkpoints.save(state, self._folder / COURSE)
        return {Part.POSITION: self._course.position.to_bytes(POSITION_BYTES, "little")}

    def _open_sum(self, question: Question[Any], attempt: int, parts: Mapping[str, bytes]) -> OpenedSum:
        """What the masked vectors add up to. Raises PeerViolation if they are not what hospitals signed."""
        terms = derive_terms(self._participants, question, attempt=attempt)
        total, survivors = Opening.from_parts(parts).total(terms)
        return OpenedSum(update=total.update, exact=decode_exact(question.layout, total.exact), survivors=survivors)

    def _read_plain_sum(self, question: Question[Any], _attempt: int, parts: Mapping[str, bytes]) -> OpenedSum:
        """A sum in the clear, as the coordinator says it: the settings say that nothing is protected."""
        try:
            update = np.frombuffer(parts[Part.UPDATE], dtype="<f8")
            exact = np.frombuffer(parts[Part.EXACT], dtype="<u8").astype(np.uint64)
            names = frozenset(map(str, json.loads(parts[Part.IN_SUM])))
        except (KeyError, ValueError, RecursionError):
            raise PeerViolation("the coordinator's sum is not one: run the same version everywhere") from None
        lengths = (update.size, exact.size)
        if lengths != (question.layout.update_length, question.layout.exact_length):
            raise PeerViolation("the coordinator's sum is of another network: use the same settings everywhere")
        return OpenedSum(update=update, exact=decode_exact(question.layout, exact), survivors=names)

    def _restore_course(self) -> None:
        """Go on where this hospital stood. Raises ConfigurationError if its settings were others then."""
        path = self._folder / COURSE
        if not path.exists():
            return
        state = checkpoints.read(path)
        if str(state.get("agreed")) != self._course.hash_agreement():
            raise ConfigurationError(
                f"{path}: run '{self._settings.run}' began with other settings than this file's: give the same ones "
                "again, or take part in a new run under a new name"
            )
        self._course.restore(state)

    def _accept(self, step: Step, letter: Letter, kind: type[O]) -> tuple[Question[O], int]:
        """Read an order, and refuse one that does not follow from this hospital's settings and the sums so far."""
        order, attempt = read_order(letter, kind)
        if order.run != self._settings.run:
            raise Refused(
                f"hospital {self._settings.name} takes part in run '{self._settings.run}', not in '{order.run}': "
                "change 'run' in its settings if its people agree to this run"
            )
        if not order.secure and self._settings.aggregation.secure:
            raise Refused(
                f"hospital {self._settings.name} sends nothing in the clear: aggregate securely, or set "
                "aggregation.secure = false there"
            )
        question = self._course.ask(step)
        if difference := find_difference(order.model_dump(mode="json"), question.order.model_dump(mode="json")):
            where, asked, own = difference
            raise Refused(
                f"hospital {self._settings.name}: the coordinator asks for {where} = {_shorten(asked)}. By this "
                f"hospital's settings, and the sums so far, it is {_shorten(own)}, and it answers nothing else"
            )
        if step is Step.SURVEY:
            self._course.begin_with(letter.part(WEIGHTS))
            question = self._course.ask(step)
        return question, attempt

    def _begin(
        self,
        question: Question[Any],
        attempt: int,
        values: Mapping[str, NDArray[Any]],
        *,
        update: NDArray[Any] | None = None,
    ) -> Mapping[str, bytes]:
        """Hold the vector ready, and advertise fresh keys for hiding it."""
        layout = question.layout
        none: NDArray[Any] = np.zeros(0, np.uint16 if layout.ring_bits == 16 else np.uint32)
        exact = encode_exact(layout, values, hospital=self._settings.name)
        vector = RingVector(none if update is None else update, exact)
        if not question.order.secure:
            self._attempt = (vector, None)
            return {}
        terms = derive_terms(self._participants, question, attempt=attempt)
        aggregation = HospitalAggregation(
            terms,
            name=self._settings.name,
            signing_key=self._signing_key,
            history=self._history,
            may_change=question.step is Step.SURVEY,
        )
        self._attempt = (vector, aggregation)
        return {Part.ADVERTISEMENT: aggregation.advertise()}

    def _require_attempt(self) -> tuple[RingVector, HospitalAggregation]:
        vector, aggregation = self._attempt or (None, None)
        if vector is None or aggregation is None:
            raise PeerViolation(
                f"hospital {self._settings.name} has no aggregation open: it started again in the middle of the round"
            )
        return vector, aggregation

    def _share(self, letter: Letter) -> Mapping[str, bytes]:
        return {Part.SHARES: self._require_attempt()[1].share_keys(letter.part(Part.DIRECTORY))}

    def _mask(self, letter: Letter) -> Mapping[str, bytes]:
        vector, aggregation = self._require_attempt()
        return {Part.MASKED: aggregation.mask(vector, letter.part(Part.DELIVERY))}

    def _confirm(self, letter: Letter) -> Mapping[str, bytes]:
        return {Part.CONFIRMATION: self._require_attempt()[1].confirm(letter.part(Part.SURVIVORS))}

    def _unmask(self, letter: Letter) -> Mapping[str, bytes]:
        return {Part.UNMASKING: self._require_attempt()[1].unmask(letter.part(Part.CONFIRMATIONS))}

    def _send_plainly(self, _letter: Letter) -> Mapping[str, bytes]:
        """The vector in the clear: the order said so, and this hospital's own settings allow it."""
        vector, aggregation = self._attempt or (None, None)
        if vector is None or aggregation is not None:
            raise PeerViolation(f"hospital {self._settings.name} was asked for an update in the clear, out of turn")
        return {Part.UPDATE: vector.update.tobytes(), Part.EXACT: vector.exact.astype("<u8").tobytes()}

    def _finish(self, _letter: Letter) -> Mapping[str, bytes]:
        self.finished = True
        self._say("the run is finished")
        return {}


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _find_trouble(error: EncryptedInferenceError) -> Trouble:
    match error:
        case Refused():
            return Trouble.REFUSED
        case PeerViolation():
            return Trouble.OUT_OF_TURN
        case _:
            return Trouble.FAILED


def _bound_loss(loss: float, examples: int) -> float:
    """A sum of losses that can be added up: that of a model which diverged may be beyond every number."""
    most = LARGEST_LOSS * examples
    return min(loss, most) if math.isfinite(loss) else most


def _digest(step: Step, letter: Letter) -> bytes:
    header = json.dumps(letter.header, sort_keys=True)
    return hash_parts(step.value.encode() + header.encode(), letter.parts)


def _read_history(folder: Path) -> RoundHistory:
    """Of all runs: the same images are in each. Raises ConfigurationError if it is lost."""
    path = folder / HISTORY

    def store(state: str) -> None:
        replace(path, state.encode(), mode=0o600)

    if path.exists():
        return RoundHistory(path.read_text(encoding="utf-8"), save=store)
    if any(folder.glob(f"*/{COURSE}")):
        raise ConfigurationError(
            f"{path}: is missing, so this hospital no longer knows what it answered in its runs. Put the file back, or "
            "begin with an empty state folder, in a new run with another training.seed"
        )
    history = RoundHistory(save=store)
    history.keep()
    return history

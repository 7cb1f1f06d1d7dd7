"""A reference picture that was answered otherwise than the model's owner signed: found, told, and kept.

Kept in `mismatches` below the data folder is one file for each: the signed catalog entry with the card, which proves
what the owner vouched for, the session, of which front end and model owner keep an entry in their audit logs, and the
answer. That this was the answer is the data owner's word alone. While such a file is there, each answer of that version
carries a warning.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pydantic import AwareDatetime

from contract.api import ModelEntry
from contract.base import Sha256, Strict
from contract.errors import ConfigurationError, PeerViolation, ReferenceMismatch
from contract.files import create, private_folder
from contract.model_card import OutputPolicy
from contract.references import ReferencePicture, Whole
from data_owner.diagnosis import Diagnosis, Warned
from data_owner.results import Outcome
from data_owner.submission import Submission
from plumbing.output import printable, shown_path

if TYPE_CHECKING:
    from secure_computation.plan import Plan

FOLDER: Final = "mismatches"
CODE: Final = "reference-mismatch"


class Mismatch(Strict):
    """What is kept."""

    date: AwareDatetime
    session: UUID
    entry: ModelEntry
    """As the model's owner signed it: `references` in its card has the answer that was vouched for."""
    file_sha256: Sha256
    """Of the reference picture."""
    answer: tuple[Whole, ...] | None
    """In the whole numbers of the plan, as `references` has them; None: what was opened is no answer of this plan."""


class Mismatches:
    """Those of one data folder."""

    def __init__(self, data_folder: Path) -> None:
        """Nothing is made in `data_folder` before it is needed."""
        self._data_folder = data_folder
        self._folder = data_folder / FOLDER

    def judge(
        self,
        submissions: Sequence[Submission],
        results: Sequence[Diagnosis | PeerViolation],
        entry: ModelEntry,
        plan: "Plan",
        outcome: Outcome,
    ) -> tuple[Diagnosis | PeerViolation, ...]:
        """The same results; in place of each that answers a reference picture wrongly, that, which is kept as well."""
        judged: list[Diagnosis | PeerViolation] = []
        for index, (submission, result) in enumerate(zip(submissions, results, strict=True)):
            judged.append(result)
            if (picture := submission.reference) is None:
                continue
            answer = _read_answer(plan, outcome, index)
            if (found := _find_difference(entry, plan, picture, answer)) is None:
                continue
            mismatch = Mismatch(
                date=datetime.now(tz=UTC),
                session=outcome.sessions[index],
                entry=entry,
                file_sha256=picture.file_sha256,
                answer=answer,
            )
            judged[-1] = error = self._tell(mismatch, submission.path, found)
            if isinstance(result, Diagnosis):
                self._note_in_history(mismatch, result, str(error))
        return tuple(judged)

    def _tell(self, mismatch: Mismatch, path: Path, found: str) -> ReferenceMismatch:
        name, owner = f"{mismatch.entry.card.name} {mismatch.entry.version}", mismatch.entry.model_owner.organisation
        return ReferenceMismatch(
            f"{name} answered the reference picture {shown_path(path)} otherwise than its owner, {owner}, signed: "
            f"{found}. Do not rely on this model, and ask {owner}. {self._keep(mismatch)}"
        )

    def warn(self, model: str, version: str) -> tuple[Warned, ...]:
        """A warning for an answer of a version that has answered a reference picture wrongly."""
        found = sorted(self._folder.glob(f"{model}_{version}_*.json"))
        if not found:
            return ()
        text = (
            "this model answered a reference picture otherwise than its owner signed: do not rely on it. What was "
            f"found is in {shown_path(found[-1])}; once its owner has explained it, remove that file"
        )
        return (Warned(code=CODE, text=text),)

    def _keep(self, mismatch: Mismatch) -> str:
        """Keep the evidence; where it is, or that it could not be kept."""
        entry, stamp = mismatch.entry, f"{mismatch.date:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        path = self._folder / f"{entry.card.name}_{entry.version}_{stamp}.json"
        try:
            private_folder(self._folder, check=False)
            create(path, mismatch.model_dump_json(indent=2).encode())
        except (OSError, ConfigurationError):
            return f"The evidence cannot be kept in {shown_path(self._folder)}: make room there"
        return f"The signed card and the answer are kept in {shown_path(path)}"

    def _note_in_history(self, mismatch: Mismatch, answered: Diagnosis, words: str) -> None:
        """As far as the disk takes it."""
        from data_owner.ui.folders import locate_history
        from data_owner.ui.history import History, Record

        warnings = (Warned(code=CODE, text=words),)
        record = Record.of(answered, date=mismatch.date, file_digest=mismatch.file_sha256, warnings=warnings)
        try:
            History(locate_history(self._data_folder)).add(record)
        except (OSError, ConfigurationError):
            return  # it is told, and kept as evidence


def _read_answer(plan: "Plan", outcome: Outcome, index: int) -> tuple[int, ...] | None:
    from secure_computation.engines.masked.plan.whole_answers import to_whole_numbers

    lowering = plan.engines.masked
    if lowering is None:
        return None
    return to_whole_numbers(lowering, outcome.answers[index], outcome.heat_maps[index] if outcome.heat_maps else None)


def _find_difference(
    entry: ModelEntry, plan: "Plan", picture: ReferencePicture, answer: tuple[int, ...] | None
) -> str | None:
    """What differs most from what was signed, in words; None if nothing does."""
    lowering, classes = plan.engines.masked, entry.card.classes
    if lowering is None or answer is None or len(answer) != len(picture.numbers):
        return "what was opened is no answer of its plan"
    if (worst := picture.find_worst(answer)) is None:
        return None
    if entry.card.output_policy is OutputPolicy.LABEL_ONLY:
        return f"'{printable(classes[answer[0]])}' in place of '{printable(classes[picture.numbers[0]])}'"
    if worst >= len(classes):
        cells = (len(picture.numbers) - len(classes)) // len(classes)
        return f"the heat map of '{printable(classes[(worst - len(classes)) // cells])}' is another"
    scale = lowering.step(lowering.output).value.scale
    got, signed, most = answer[worst] / scale, picture.numbers[worst] / scale, picture.allowed[worst] / scale
    within = f"within {most:.2g} of {signed:.6g}" if most else f"{signed:.9g}"
    return f"the logit of '{printable(classes[worst])}' is {got:.9g} and should be {within}"

"""How an answer reads: the numbers and sentences that the terminal, the page and what is exported show alike."""

from dataclasses import dataclass, field
from typing import assert_never

from contract.model_card import Task
from data_owner.answers import ClassAnswer, Finding, FindingsAnswer, ModelAnswer
from data_owner.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class Line:
    """One class or finding with its probability."""

    name: str
    share: float = field(repr=False)
    percent: str = field(repr=False)
    stands: bool = field(repr=False)
    """Whether it is the answer, or part of it."""
    threshold: float | None = None
    """From which on a finding is present; None if classes compete."""

    @property
    def verdict(self) -> str:
        """What a finding's threshold says of it."""
        if self.threshold is None:
            return ""
        return f"{'present' if self.stands else 'not present'}, from {self.threshold * 100:.4g} % on"


def list_lines(answer: ModelAnswer) -> tuple[Line, ...]:
    """The probabilities, those that stand and the largest first; of a binary model that of its finding alone."""
    match answer:
        case ClassAnswer():
            every = list((answer.probabilities or {}).items())
            chosen = every[-1:] if answer.task is Task.BINARY else sorted(every, key=lambda pair: -pair[1])
            return tuple(_make_class_line(answer, *pair) for pair in chosen)
        case FindingsAnswer(findings=findings):
            found = sorted(findings, key=lambda one: (not one.present, -one.probability))
            return tuple(_make_finding_line(one) for one in found)
        case _:
            assert_never(answer)


def _make_class_line(answer: ClassAnswer, name: str, share: float) -> Line:
    stands = name == answer.label and not answer.uncertain
    return Line(name=name, share=share, percent=format_percent(share), stands=stands)


def _make_finding_line(finding: Finding) -> Line:
    return Line(
        name=finding.name,
        share=finding.probability,
        percent=_format_beside_threshold(finding),
        stands=finding.present,
        threshold=finding.threshold,
    )


def format_percent(share: float) -> str:
    """A probability; never 100 % or 0 %, which no model knows."""
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def _format_beside_threshold(finding: Finding) -> str:
    """The same, with more digits if rounding would put it on the other side of the threshold that is shown too."""
    rounded = round(finding.probability, 3)
    if (rounded >= finding.threshold) == finding.present:
        return format_percent(finding.probability)
    return f"{finding.probability * 100:.6g} %"


def summarise(answer: ModelAnswer) -> str:
    """The answer with the probabilities that belong to it, in one line."""
    lines = list_lines(answer)
    match answer:
        case ClassAnswer(probabilities=None):
            return answer.words
        case ClassAnswer(task=Task.BINARY):
            return f"{answer.words}; probability of {lines[0].name}: {lines[0].percent}"
        case ClassAnswer():
            return f"{answer.words}, {lines[0].percent}"
        case FindingsAnswer():
            return ", ".join(f"{line.name} {line.percent}" for line in lines if line.stands) or answer.words
        case _:
            assert_never(answer)


def explain(answer: ModelAnswer, calibration: Calibration | None) -> str:
    """What the numbers are, in some sentences. `calibration` None: nobody knows, so nothing is said of it."""
    match answer:
        case ClassAnswer(probabilities=None):
            return "The model's owner gives the label only."
        case ClassAnswer(task=Task.BINARY):
            finding = list(answer.probabilities or {answer.label: 1.0})[-1]
            said = f"probability of {finding}" + ("." if answer.uncertain else f": above 50 % the answer is {finding}.")
        case ClassAnswer():
            said = "probabilities of the model's classes; it always names one of them."
        case FindingsAnswer():
            said = "probabilities of findings, each on its own: they do not add up to 100 %. The model knows no others."
        case _:
            assert_never(answer)
    if calibration is Calibration.CALIBRATED:
        return f"Calibrated {said}"
    reason = "" if calibration is None else f" {calibration.reason}"
    return f"{said[0].upper()}{said[1:]}{reason}"


def say_repeats(repeats: int) -> str:
    """What sessions that were checks mean, in one line."""
    times = "once" if repeats == 1 else f"{repeats} times"
    return f"Checked and repeated: the model owner checked this program {times}, and all was right."

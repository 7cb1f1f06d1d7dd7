"""What a card may say of reference pictures, whoever wrote it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contract.api import ModelEntry
from contract.card_faults import find_card_faults
from contract.model_card import ModelCard
from contract.references import MOST_REFERENCE_NUMBERS, MOST_REFERENCES, ReferencePicture, References

CARD: dict[str, Any] = {
    "name": "tiny",
    "version": "1.0.0",
    "title": "Tiny",
    "intended_use": "tests",
    "input": {"modalities": ["CR"], "height": 8, "width": 8, "mean": [0.5], "standard_deviation": [0.25]},
    "classes": ["a", "b"],
    "training": "none",
    "model_sha256": "0" * 64,
}
PLAN = "cd" * 32


def picture(number: int = 0, **changes: Any) -> dict[str, Any]:
    digests = {"file_sha256": f"{number:064x}", "input_sha256": f"{number + 1000:064x}"}
    return digests | {"numbers": [5, -7]} | changes


def references(*pictures: dict[str, Any]) -> dict[str, Any]:
    return {"plan_hash": PLAN, "pictures": list(pictures)}


def test_an_answer_is_right_up_to_its_tolerances_and_no_further() -> None:
    exact = ReferencePicture.model_validate(picture())
    assert exact.find_worst((5, -7)) is None
    assert exact.find_worst((5, -6)) == 1
    rough = ReferencePicture.model_validate(picture(tolerances=[2, 3]))
    assert rough.find_worst((7, -10)) is None
    assert rough.find_worst((8, -10)) == 0
    assert rough.find_worst((8, 0)) == 1, "the one that is further beyond"
    with pytest.raises(ValueError, match="argument 2"):
        exact.find_worst((5,))


@pytest.mark.parametrize(
    ("policy", "arithmetic", "one"),
    [
        ("logits", "exact", picture()),
        ("logits", "dithered", picture(tolerances=[1, 1])),
        ("logits-and-heat-map", "exact", picture(numbers=[5, -7, *range(8)])),
        ("label-only", "exact", picture(numbers=[1])),
        ("label-only", "dithered", picture(numbers=[0])),
    ],
)
def test_a_card_may_hold_answers_of_its_own_kind(policy: str, arithmetic: str, one: dict[str, Any]) -> None:
    card = ModelCard.model_validate(
        CARD | {"output_policy": policy, "arithmetic": arithmetic, "references": references(one)}
    )
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


WRONG_FOR_THE_CARD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "an answer of three classes": ("logits", "exact", picture(numbers=[1, 2, 3])),
    "a heat map where none is opened": ("logits", "exact", picture(numbers=[1, 2, 3, 4])),
    "no heat map where one is opened": ("logits-and-heat-map", "exact", picture()),
    "half a cell": ("logits-and-heat-map", "exact", picture(numbers=[1, 2, 3])),
    "logits where a label is opened": ("label-only", "exact", picture()),
    "a label of no class": ("label-only", "exact", picture(numbers=[2])),
    "a label below the first": ("label-only", "exact", picture(numbers=[-1])),
    "a label with a tolerance, which is any label": ("label-only", "dithered", picture(numbers=[1], tolerances=[9])),
    "a tolerance in exact arithmetic": ("logits", "exact", picture(tolerances=[0, 1])),
}


@pytest.mark.parametrize("case", WRONG_FOR_THE_CARD)
def test_answers_of_another_kind_are_in_no_card(case: str) -> None:
    policy, arithmetic, one = WRONG_FOR_THE_CARD[case]
    changes = {"output_policy": policy, "arithmetic": arithmetic, "references": references(one)}
    faults = find_card_faults(json.dumps(CARD | changes).encode(), ModelCard)
    assert faults == ["references are not answers of such a model: leave them out, and import with --references FOLDER"]


HOSTILE: dict[str, Any] = {
    "none": references(),
    "too many": references(*(picture(number) for number in range(MOST_REFERENCES + 1))),
    "a file twice": references(picture(0), picture(1) | {"file_sha256": f"{0:064x}"}),
    "an input twice": references(picture(0), picture(1) | {"input_sha256": f"{1000:064x}"}),
    "numbers without end": references(picture(numbers=[0] * (MOST_REFERENCE_NUMBERS + 1))),
    "numbers without end together": references(
        *(picture(number, numbers=[0] * (MOST_REFERENCE_NUMBERS // 2 + 1)) for number in range(2))
    ),
    "no numbers": references(picture(numbers=[])),
    "fewer tolerances": references(picture(tolerances=[1])),
    "a negative tolerance": references(picture(tolerances=[1, -1])),
    "a huge number": references(picture(numbers=[1 << 53, 0])),
    "a fraction": references(picture(numbers=[0.5, 0])),
    "no number": references(picture(numbers=["NaN", 0])),
    "a path for a hash": references(picture(file_sha256="../../etc/passwd")),
    "more fields": references(picture(weights=[1])),
    "no plan": {"pictures": [picture()]},
    "a list": [picture()],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_out_of_bounds_is_in_no_card(case: str) -> None:
    with pytest.raises(ValidationError):
        References.model_validate_json(json.dumps(HOSTILE[case]))
    assert find_card_faults(json.dumps(CARD | {"references": HOSTILE[case]}).encode(), ModelCard)


def test_a_version_of_endless_digits_is_in_no_card() -> None:
    """It would be no number to whoever sorts versions, and no name of a folder."""
    faults = find_card_faults(json.dumps(CARD | {"version": f"{'1' * 5000}.0.0"}).encode(), ModelCard)
    assert len(faults) == 1
    assert faults[0].startswith("version: is longer than 60 characters")


def test_a_catalog_entry_has_the_references_of_its_own_plan() -> None:
    """As of a newer version, whose pictures an older card has no answers for."""
    party = {"organisation": "a", "address": "wss://a.example/v2"}
    entry = {
        "card": CARD | {"references": references(picture())},
        "version": "1.0.0",
        "plan_hash": PLAN,
        "engines": ["masked"],
        "model_owner": party,
        "crypto_provider": party,
    }
    assert ModelEntry.model_validate_json(json.dumps(entry)).card.references is not None
    with pytest.raises(ValidationError, match="reference pictures are those of another plan"):
        ModelEntry.model_validate_json(json.dumps(entry | {"plan_hash": "ab" * 32}))

"""Whatever a validator finds, the reader hears of it without the validator's own words."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, create_model

from contract.base import Strict
from contract.fault_words import describe_fault


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Table(Strict):
    size: int = 1


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, "many", "must be a whole number"),
        (int, 1.5, "must be a whole number"),
        (int, None, "must be a whole number"),
        (int, "9" * 5000, "must be a whole number"),
        (float, "many", "must be a number"),
        (Annotated[float, Field(allow_inf_nan=False)], float("nan"), "must be a finite number"),
        (bool, "perhaps", "must be true or false"),
        (str, 5, "must be text"),
        (Path, 5, "must be the path of a file or folder"),
        (Table, 5, "must be a table of fields"),
        (dict[str, int], 5, "must be a table of fields"),
        (tuple[int, ...], 5, "must be a list"),
        (list[int], 5, "must be a list"),
        (Annotated[int, Field(ge=1)], 0, "must be at least 1"),
        (Annotated[float, Field(gt=0)], 0, "must be more than 0.0"),
        (Annotated[int, Field(le=3)], 4, "must be at most 3"),
        (Annotated[int, Field(lt=3)], 4, "must be less than 3"),
        (Annotated[tuple[int, ...], Field(min_length=1)], (), "needs at least 1"),
        (Annotated[tuple[int, ...], Field(max_length=1)], (1, 2), "has more than 1"),
        (Annotated[str, Field(min_length=1)], "", "is too short: the least is 1"),
        (Annotated[str, Field(max_length=1)], "abc", "is longer than 1 characters"),
        (Annotated[str, Field(pattern="^a$")], "b", "is not of the form that it must have"),
        (Colour, "green", "must be 'red' or 'blue'"),
        (Literal["a", "b"], "c", "must be 'a' or 'b'"),
    ],
)
def test_a_fault_is_told_in_plain_words(kind: Any, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        create_model("Example", field=(kind, ...))(field=value)
    assert [describe_fault(fault) for fault in caught.value.errors(include_url=False, include_input=False)] == [words]

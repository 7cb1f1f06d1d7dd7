"""Reference pictures of a model: what its owner says it answers to a few public pictures, to the last bit. Public.

A data owner sends some of them among its own images and compares. A model owner that evaluates another model, or a
machine that computes otherwise, is found out, because nothing in such a session tells it from others.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from contract.base import Sha256, Strict

MOST_REFERENCES: Final = 16
"""Pictures of one card."""
MOST_REFERENCE_BYTES: Final = 64 << 20
"""Of one picture's file."""
MOST_REFERENCE_NUMBERS: Final = 4096
"""Of all pictures of one card together: everybody who reads the catalog reads them."""

Whole = Annotated[int, Field(gt=-(1 << 53), lt=1 << 53)]
Tolerance = Annotated[int, Field(ge=0, lt=1 << 53)]


class ReferencePicture(Strict):
    """One picture and the model's answer, in the whole numbers of the masked plan."""

    file_sha256: Sha256
    input_sha256: Sha256
    """Of the tensor that the plan reads, as whole numbers: whoever reads the file otherwise than the model's owner
    finds out before a session."""
    numbers: tuple[Whole, ...] = Field(min_length=1, max_length=MOST_REFERENCE_NUMBERS)
    """Logits, then the heat map, class by class and row by row, if the plan opens one; for a plan that gives a label,
    the number of its class alone."""
    tolerances: tuple[Tolerance, ...] = Field(default=(), max_length=MOST_REFERENCE_NUMBERS)
    """How far an answer may be from each of `numbers`, of a plan that rounds at random; empty: not at all."""

    @model_validator(mode="after")
    def _one_tolerance_for_each_number(self) -> Self:
        if self.tolerances and len(self.tolerances) != len(self.numbers):
            raise ValueError("tolerances must be as many as numbers, or none")
        return self

    @property
    def allowed(self) -> tuple[int, ...]:
        """How far an answer may be from each number."""
        return self.tolerances or (0,) * len(self.numbers)

    def find_worst(self, answer: Sequence[int]) -> int | None:
        """Which number of an answer is furthest beyond what is allowed; None if none is. Takes as many as there are."""
        beyond = [abs(a - b) - most for a, b, most in zip(answer, self.numbers, self.allowed, strict=True)]
        worst = max(range(len(beyond)), key=beyond.__getitem__)
        return worst if beyond[worst] > 0 else None


class References(Strict):
    """The reference pictures of one version of a model. The import writes them into its card."""

    plan_hash: Sha256
    """Of the plan whose whole numbers these are."""
    pictures: tuple[ReferencePicture, ...] = Field(min_length=1, max_length=MOST_REFERENCES)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len({one.input_sha256 for one in self.pictures}) < len(self.pictures) or len(
            {one.file_sha256 for one in self.pictures}
        ) < len(self.pictures):
            raise ValueError("the same reference picture stands there more than once")
        if sum(len(one.numbers) for one in self.pictures) > MOST_REFERENCE_NUMBERS:
            raise ValueError(f"reference pictures hold more than {MOST_REFERENCE_NUMBERS} numbers together")
        return self

"""What a run brings: logits, how far they are from the plain model's, and what it cost."""

from dataclasses import dataclass, fields
from typing import Any, NewType, Self

import numpy as np
from numpy.typing import NDArray

from contract.errors import CallerError
from contract.ticket import Engine

Images = NewType("Images", NDArray[np.float32])
"""Finite, of shape (images, channels, height, width), at least one."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Cost:
    """What crossed the parties' channels, frame headers included. Of several sessions: their sum."""

    online_bytes: int
    """Between data owner and model owner, both ways, from the image to the logits."""
    one_way_trips: int
    """How often one of them waited for the other on the way from the image to the logits."""
    offline_bytes: int
    """Everything before, which needs no image and can be prepared ahead."""
    material_bytes: int
    """Of `offline_bytes`: what the crypto provider dealt."""
    weights_bytes: int
    """Of `offline_bytes`: what the model owner sent the data owner, above all masked weights. The masked engine sends
    them once for each version of a model, so in the first run only; CrypTen's sends them in each session."""

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of both."""
        return Cost(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)})

    def __repr__(self) -> str:
        return (
            f"<Cost: online {_in_bytes(self.online_bytes)} in {self.one_way_trips} trips; "
            f"offline {_in_bytes(self.offline_bytes)}, of it material {_in_bytes(self.material_bytes)} "
            f"and weights {_in_bytes(self.weights_bytes)}>"
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Evaluation:
    """The answers to some images. The values are never in its repr: they may be a patient's."""

    engine: Engine
    logits: NDArray[np.float64] | None
    """(classes,) for one image, (images, classes) for several; None if the model gives labels only."""
    labels: NDArray[np.int64] | None = None
    """Of a model that gives labels only: the index of the class, of shape () or (images,)."""
    plain: NDArray[np.float64] | None = None
    """The logits of the model in clear, of the same shape; None if the model is on a server."""
    cost: Cost

    @property
    def error(self) -> float | None:
        """The largest absolute difference of a logit from the plain model's; None if that is not known."""
        if self.logits is None or self.plain is None:
            return None
        return float(np.abs(self.logits - self.plain).max())

    def __repr__(self) -> str:
        answers = self.labels if self.logits is None else self.logits
        what = "labels" if self.logits is None else "logits"
        shape = () if answers is None else answers.shape
        error = "" if self.error is None else f", largest error {self.error:.2g}"
        return f"<Evaluation by {self.engine.value}: {what} {shape}{error}, {self.cost!r}>"


@dataclass(frozen=True, kw_only=True)
class GivenImages:
    """Images as a caller gave them: one, or several."""

    images: Images
    are_several: bool

    @classmethod
    def check(cls, given: Any, shape: tuple[int, ...]) -> Self:
        """Take an array or a torch tensor of `shape`, (channels, height, width), or of (images, *shape).

        Raises CallerError for another shape, and for anything that is not a finite number in float32.
        """
        if hasattr(given, "detach"):
            given = given.detach().cpu()
        try:
            array = np.asarray(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CallerError(f"the images are no array: give numbers of shape {shape}") from error
        if array.dtype.kind not in "fiub":
            raise CallerError(f"the images hold {array.dtype}, not real numbers: give float32")
        if array.shape not in {shape, (*array.shape[:1], *shape)} or array.size == 0:
            several = ", ".join(map(str, ("images", *shape)))
            raise CallerError(f"the images have shape {array.shape}: give {shape}, or ({several}) for several")
        with np.errstate(over="ignore"):
            images = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, *shape)
        finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
        if not finite.all():
            raise CallerError(
                f"image {int(np.argmin(finite))} holds NaN, an infinity, or a number beyond float32: replace it"
            )
        return cls(images=Images(images), are_several=array.ndim == len(shape) + 1)

    def shape_answers(self, rows: Any) -> Any:
        """Answers, one row for each image, in the shape in which the images were given."""
        return rows if self.are_several else rows[0]


def parse_engine(name: Engine | str) -> Engine:
    """Read an engine's name. Raises CallerError for another word."""
    try:
        return Engine(name)
    except ValueError:
        raise CallerError(f"there is no engine '{name}': choose {' or '.join(Engine)}") from None


def _in_bytes(count: int) -> str:
    """A count in kB or MB, with one decimal."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:,.1f} kB" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"

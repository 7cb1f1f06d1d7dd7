"""The result of one diagnosis, as the clinician reads it. It stays on this machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from contract.base import Strict
from contract.identity import Role
from contract.ticket import Engine
from data_owner.answers import ModelAnswer
from data_owner.calibration import Calibration

if TYPE_CHECKING:  # takes long to load, and the page is up before it
    from imaging.formats import ImageWarning

HeatMapGrid = tuple[tuple[float, ...], ...]
"""Rows from top to bottom, each from left to right."""


class ModelName(Strict):
    """Which model answered."""

    name: str
    version: str


class Seconds(Strict):
    """Wall-clock seconds, as the data owner measured them."""

    offline: float
    """From the session's opening until the material is there; needs no image. Next to nothing if it was in stock."""
    online: float
    """From the image's first share to the result."""

    def __add__(self, other: "Seconds") -> "Seconds":
        """Of two sessions, one after the other."""
        return Seconds(offline=self.offline + other.offline, online=self.online + other.online)


class LinkBytes(Strict):
    """What crossed one link in one direction, frame headers included."""

    sender: Role
    receiver: Role
    offline: int
    """Tickets included."""
    online: int


class Bytes(Strict):
    """What crossed the parties' channels, frame headers included."""

    online: int
    """Both directions, between data owner and model owner."""
    offline: int
    """Everything else in this session: tickets, seeds, corrections. What stocking took was spent before it."""
    data_owner_sent: int
    model_owner_sent: int
    crypto_provider_sent: int
    links: tuple[LinkBytes, ...]
    """The same by link: this party counted its own; the model owner told what crossed its link to the dealer."""

    def __add__(self, other: "Bytes") -> "Bytes":
        """Of two sessions with the same parties."""
        mine, others = self.model_dump(exclude={"links"}), other.model_dump(exclude={"links"})
        pairs = zip(self.links, other.links, strict=True)
        return Bytes(
            **{name: mine[name] + others[name] for name in mine},
            links=tuple(
                one.model_copy(update={"offline": one.offline + more.offline, "online": one.online + more.online})
                for one, more in pairs
            ),
        )


class Warned(Strict):
    """One thing that the clinician should know about the file."""

    code: str
    text: str
    confirmed: bool = False
    """Whether it asked for confirmation, and the user submitted the image anyway."""

    @staticmethod
    def from_image(warning: "ImageWarning") -> "Warned":
        """Take over what the reader of the image noticed."""
        return Warned(code=warning.code, text=warning.text)

    @staticmethod
    def from_submitted(warning: "ImageWarning") -> "Warned":
        """The same of an image that was submitted: without confirmation, those that ask for it are not."""
        return Warned(code=warning.code, text=warning.text, confirmed=warning.needs_confirmation)

    @property
    def words(self) -> str:
        """The text, with what the user did about it."""
        return f"{self.text} (you submitted it anyway)" if self.confirmed else self.text


class Batch(Strict):
    """The session's images: they were evaluated together."""

    images: int
    """How many. Seconds, bytes and one-way trips are those of the whole session, in the answer to each of them."""
    index: int
    """Which one this is, from 0."""


class Diagnosis(Strict):
    """One file's answer."""

    file: str
    """Its path. Of a name that is no UTF-8 the bytes that are none stand as \\xff, and `file_bytes` has it whole."""
    file_bytes: str | None = None
    """The path in hexadecimal, if it is no UTF-8."""
    model: ModelName
    engine: Engine
    diagnosis: ModelAnswer
    calibration: Calibration | None
    """Whether its probabilities may be called calibrated; None for a model that gives its label only."""
    logits: Annotated[tuple[float, ...] | None, Field(repr=False)]
    """None for a model that gives its label only."""
    warnings: tuple[Warned, ...]
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    stocked: bool = False
    """Whether the material was prepared ahead."""
    repeats: int = 0
    """How many sessions before were checks, by which the model owner makes sure that data owners follow the protocol:
    the image was evaluated again. Seconds, bytes and trips are those of all together."""
    batch: Batch = Batch(images=1, index=0)
    """The images that were evaluated with this one."""
    heat_map: Annotated[dict[str, HeatMapGrid] | None, Field(repr=False)] = None
    """Class activation map of each class, if the model's owner allows it: what speaks for the class (above 0) and
    against it, over the whole picture, in logits: the mean of a grid is the class's logit less a constant."""
    heat_map_file: str | None = None
    """The picture with the map of the decided class over it, if it was asked for; of a multi-label model, one below
    its name for each finding that is present."""

    @property
    def path(self) -> Path:
        """The file, whatever its name is made of."""
        return Path(self.file if self.file_bytes is None else os.fsdecode(bytes.fromhex(self.file_bytes)))

    @model_serializer(mode="wrap")
    def _only_heat_maps_that_are(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None or "heat_map" not in name}

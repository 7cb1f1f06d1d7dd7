"""The result of one diagnosis, as the clinician reads it. It stays on this machine."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from contract.identity import Role
from contract.model_card import ModelCard, Strict
from contract.ticket import Engine
from imaging import ImageWarning

HeatMapGrid = tuple[tuple[float, ...], ...]
"""Rows from top to bottom, each from left to right."""


class ModelName(Strict):
    """Which model answered."""

    name: str
    version: str


class Finding(Strict):
    """What the model says about an image."""

    label: str
    probabilities: Annotated[dict[str, float] | None, Field(repr=False)]
    """Calibrated, by class; None for a model that gives its label only."""
    uncertain: bool = False
    """Whether the largest probability is below the card's `uncertain_below`: then `label` is no answer to rely on."""

    @staticmethod
    def from_logits(card: ModelCard, logits: tuple[float, ...]) -> "Finding":
        """Read logits by a model's card: calibrated probabilities, and the label with the largest."""
        probabilities = card.probabilities(logits)
        return Finding(
            label=max(probabilities, key=lambda name: probabilities[name]),
            probabilities=probabilities,
            uncertain=card.is_uncertain(probabilities),
        )

    @staticmethod
    def from_label(card: ModelCard, index: int) -> "Finding":
        """Name the label of a model that gives nothing else."""
        return Finding(label=card.classes[index], probabilities=None)


class Seconds(Strict):
    """Wall-clock seconds, as the data owner measured them."""

    offline: float
    """From the session's opening until the material is there; needs no image. Next to nothing where it was in stock."""
    online: float
    """From the image's first share to the result."""


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


class Warned(Strict):
    """One thing that the clinician should know about the file."""

    code: str
    text: str

    @staticmethod
    def from_image(warning: ImageWarning) -> "Warned":
        """Take over what the reader of the image noticed."""
        return Warned(code=warning.code, text=warning.text)


class Batch(Strict):
    """The session's images: they were evaluated together."""

    images: int
    """How many. Seconds, bytes and one-way trips are those of the whole session, in the answer to each of them."""
    index: int
    """Which one this is, from 0."""


class Diagnosis(Strict):
    """One file's answer."""

    file: str
    model: ModelName
    engine: Engine
    diagnosis: Finding
    logits: Annotated[tuple[float, ...] | None, Field(repr=False)]
    """None for a model that gives its label only."""
    warnings: tuple[Warned, ...]
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    stocked: bool = False
    """Whether the material was prepared ahead."""
    batch: Batch = Batch(images=1, index=0)
    """The images that were evaluated with this one."""
    heat_map: Annotated[dict[str, HeatMapGrid] | None, Field(repr=False)] = None
    """Class activation map of each class, where the model's owner allows it: what speaks for the class (above 0) and
    against it, over the whole picture, in logits: the mean of a grid is the class's logit less a constant."""
    heat_map_file: str | None = None
    """The picture with the map of `diagnosis.label` over it, where it was asked for."""

    @model_serializer(mode="wrap")
    def _only_heat_maps_that_are(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None or "heat_map" not in name}

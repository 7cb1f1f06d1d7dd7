"""Sessions against real servers, as the data owner that a settings file describes."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from contract.errors import CallerError, PeerViolation
from contract.identity import Role
from contract.ticket import BATCHED_ENGINES, Engine
from data_owner.progress import Progress
from encrypted_inference.evaluation import Cost, Evaluation, GivenImages, parse_engine
from plumbing.settings import load_settings
from secure_computation.engines.interface import Label

if TYPE_CHECKING:
    from contract.api import ModelEntry
    from data_owner.results import Outcome
    from data_owner.settings import DataOwnerSettings

_SILENT: Final = Progress(stage=lambda _words: None, layer=lambda _index, _total, _name: None)


def connect(settings: Path | str) -> "Connection":
    """Be the data owner of a TOML file, `data-owner.toml` say; close it when done, or use it in a `with` block.

    Nothing is sent yet. Raises ConfigurationError, naming the key, for settings or files that are wrong.
    """
    from data_owner.settings import DataOwnerSettings

    return Connection(load_settings(DataOwnerSettings, Path(settings)))


class Connection:
    """A data owner and its front end. `run` has an image evaluated by a model owner that never sees it."""

    def __init__(self, settings: "DataOwnerSettings") -> None:
        """See `connect`."""
        from data_owner.session import Diagnoser
        from inference_service.client import InferenceServiceClient

        self._url = settings.inference_service.url
        self._client = InferenceServiceClient.of(settings.inference_service)
        self._diagnoser = Diagnoser(settings, self._client)

    def __repr__(self) -> str:
        return f"<Connection: data owner of the front end at {self._url}>"

    def __enter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the front end."""
        self._client.close()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in service whose owners the settings name. Raises TransportError and as `run`."""
        return tuple(sorted(self._diagnoser.catalog.list_offered()))

    def read(self, path: Path | str, *, model: str | None = None) -> Any:
        """Read a DICOM, NIfTI, PNG, JPEG or TIFF file as a model asks for it: float32, (channels, height, width).

        Raises ImageError for a file that cannot be read, NeedsConfirmation for one that is doubtful for this model.
        """
        image = self._diagnoser.read(Path(path), self._choose(model), force=False)
        return image.image.tensor

    def run(self, images: Any, *, model: str | None = None, engine: Engine | str | None = None) -> Evaluation:
        """Have images evaluated in a session; each costs the account one diagnosis.

        Args:
            images: an array or torch tensor of shape (channels, height, width), prepared as the model's card asks
                (`read` does so); or (images, channels, height, width), all in one session of the masked engine.
            model: may be left out if only one is offered.
            engine: "masked" or "crypten"; if left out, the model's first.

        Raises:
            CallerError: wrong shape, NaN, a model or an engine that is not offered.
            TransportError: a server cannot be reached.
            EncryptedInferenceError: any other end of the session.
        """
        entry = self._choose(model)
        chosen = entry.engines[0] if engine is None else parse_engine(engine)
        if chosen not in entry.engines:
            raise CallerError(f"{entry.card.name} runs on {' or '.join(entry.engines)}, not on {chosen.value}")
        wanted = entry.card.input
        given = GivenImages.check(images, (wanted.channels, wanted.height, wanted.width))
        if len(given.images) > 1 and chosen not in BATCHED_ENGINES:
            raise CallerError(f"the engine '{chosen.value}' evaluates one image a session: give them one by one")
        self._diagnoser.warm_up(chosen)
        outcome = self._diagnoser.evaluate(list(given.images), entry, engine=chosen, progress=_SILENT)
        return _read_outcome(outcome, given, chosen)

    def _choose(self, name: str | None) -> "ModelEntry":
        if name is None and len(offered := self.models) > 1:
            raise CallerError(f"several models are offered: choose one with model=..., of {', '.join(offered)}")
        return self._diagnoser.choose_model(name)


def _read_outcome(outcome: "Outcome", given: GivenImages, engine: Engine) -> Evaluation:
    indices = [answer.index for answer in outcome.answers if isinstance(answer, Label)]
    if None in indices:
        raise PeerViolation("what was opened is no label: a party did not follow the protocol; ask its operators")
    counted = outcome.bytes
    cost = Cost(
        online_bytes=counted.online,
        one_way_trips=outcome.one_way_trips,
        offline_bytes=counted.offline,
        material_bytes=sum(link.offline for link in counted.links if link.sender is Role.CRYPTO_PROVIDER),
        weights_bytes=sum(
            link.offline
            for link in counted.links
            if (link.sender, link.receiver) == (Role.MODEL_OWNER, Role.DATA_OWNER)
        ),
    )
    if indices:
        return Evaluation(engine=engine, logits=None, labels=given.shape_answers(np.array(indices)), cost=cost)
    rows = np.stack([np.asarray(answer, dtype=np.float64) for answer in outcome.answers])
    return Evaluation(engine=engine, logits=given.shape_answers(rows), cost=cost)

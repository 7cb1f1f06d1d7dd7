"""A data owner and a model owner whose stocks are watched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.identity import Party, Role
from contract.ticket import Engine
from crypto_provider.dealer import Dealer
from data_owner.diagnosis import Diagnosis
from data_owner.session import Diagnoser, Stocked
from imaging.reading import read_model_input
from secure_computation.admission import STOCKED_ITEM_STEP, present_ticket
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session.stock import stockable
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.stock_folder import Binding, Body, StockFolder
from secure_computation.wire import Phase
from tests.end_to_end.federation import HOSPITAL, LABORATORY, SILENT, Federation, RecordingClient
from tests.end_to_end.models import DITHER

Logits = NDArray[np.float64]
MASKED_TICKET = {"engine": Engine.MASKED}


@dataclass
class Parties:
    """A data owner and a model owner with folders of their own, and what they did with stocked items."""

    federation: Federation
    folder: Path
    model_owner_url: str
    dealt: list[Role] = field(default_factory=list)
    """Who was dealt a half, in order."""
    taken: list[tuple[Path, str]] = field(default_factory=list)
    """Which items were taken out of which folder, whole."""

    @property
    def data_owner_stock(self) -> Path:
        return self.folder / "p0" / "stock"

    @property
    def model_owner_stock(self) -> Path:
        return self.folder / "p1" / "stock" / HOSPITAL.organisation

    def items(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def consumed(self, party: str, item: str) -> bool:
        return ConsumptionLedger(self.folder / party / "consumed").consumed(ItemName(item))

    @contextmanager
    def diagnoser(self, **changes: Any) -> Iterator[tuple[Diagnoser, RecordingClient]]:
        settings: dict[str, Any] = {
            "data_folder": self.folder / "p0",
            "model_owner_url": self.model_owner_url,
        } | changes
        with self.federation.diagnoser(**settings) as both:
            yield both

    def stock(self, **changes: Any) -> Stocked:
        with self.diagnoser(**changes) as (diagnoser, _):
            return diagnoser.stock(diagnoser.choose_model(None), engine=Engine.MASKED, progress=SILENT)

    def diagnose(self, path: Path, **changes: Any) -> Diagnosis:
        with self.diagnoser(**changes) as (diagnoser, _):
            entry = diagnoser.choose_model(None)
            return diagnoser.diagnose(path, entry, engine=Engine.MASKED, force=False, progress=SILENT)

    def expected(self, path: Path) -> Logits:
        """The integer reference's answer."""
        model = self.federation.model
        lowering = stockable(model.plan)
        integers = reference.quantise_image(lowering, read_model_input(path, model.card.input).tensor)
        weights = round_weights(lowering, model.weights)
        return reference.read_logits(lowering, reference.evaluate(lowering, weights, integers))

    def check(self, diagnosis: Diagnosis, path: Path, *, stocked: bool) -> None:
        np.testing.assert_allclose(diagnosis.logits or (), self.expected(path), atol=DITHER)
        assert diagnosis.stocked is stocked

    def never_twice(self) -> None:
        assert len(self.taken) == len(set(self.taken))


@contextmanager
def running(federation: Federation, folder: Path, **changes: Any) -> Iterator[Parties]:
    """Both owners, watched."""
    with (
        pytest.MonkeyPatch.context() as patch,
        federation.model_owner(data_folder=folder / "p1", **changes) as url,
    ):
        parties = Parties(federation, folder, url)
        claim, take = Dealer.claim, StockFolder.take

        def watched_claim(self: Dealer, claims: Any, peer: Party) -> Any:
            parties.dealt.append(peer.role)
            return claim(self, claims, peer)

        def watched_take(self: StockFolder, binding: Binding, sizes: Any) -> list[Body] | None:
            bodies = take(self, binding, sizes)
            if bodies is not None:
                parties.taken.append((self._folder, binding.item))
            return bodies

        patch.setattr(Dealer, "claim", watched_claim)
        patch.setattr(StockFolder, "take", watched_take)
        yield parties


def answer(parties: Parties, item: str, *, own: Party = HOSPITAL, url: str | None = None, **claims: Any) -> object:
    """What the model owner says to a data owner who wants to spend this item, which its ticket names."""
    ticket = parties.federation.ticket(**MASKED_TICKET | {"items": (item,)} | claims)
    answered = answer_to(parties, ticket, [item], own=own, url=url)
    return answered[0] if answered else None


def answer_to(
    parties: Parties, ticket: str, named: object, *, own: Party = HOSPITAL, url: str | None = None
) -> list[str]:
    """What the model owner says to a data owner who presents this ticket and names these items."""
    with parties.federation.dial(url or parties.model_owner_url, own, LABORATORY) as channel:
        present_ticket(channel, ticket)
        channel.set_phase(Phase.OFFLINE)
        channel.send_hello({"items": named}, step=STOCKED_ITEM_STEP)
        answered = channel.receive_hello(step=STOCKED_ITEM_STEP)["items"]
    assert isinstance(answered, list)
    return answered

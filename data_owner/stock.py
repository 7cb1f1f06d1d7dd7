"""The data owner's stock: its halves of prepared items, each for one later diagnosis."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from contract.api import ModelEntry
from contract.base import Strict
from contract.errors import CallerError
from contract.ticket import TicketClaims
from data_owner.settings import DataOwnerSettings
from secure_computation.at_rest import StorageKey
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.stock_folder import Binding, Body, StockFolder, Wanted

if TYPE_CHECKING:  # the engine takes seconds to load, which listing the stock does without
    from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
    from secure_computation.engines.masked.session.sides import DataOwnerItem


class StockedModel(Strict):
    """How much is stocked for one version of a model. Nothing here is secret."""

    model: str
    version: str
    model_owner: str
    crypto_provider: str
    items: int
    oldest_seconds: Annotated[float, Field(ge=0)]
    """Age of the oldest item."""
    newest_seconds: Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class TakenItem:
    """An item that was consumed here and that no other session gets."""

    binding: Binding
    lowering: "MaskedLowering"
    bodies: list[Body]

    def __repr__(self) -> str:
        """Name the item; show nothing of it."""
        return f"TakenItem({self.binding.item[:12]})"

    @property
    def deal_tag(self) -> bytes:
        """Which the other party's half must have, too."""
        from secure_computation.engines.masked.session.stock import deal_tag_of

        return deal_tag_of(self.bodies)

    def restore(self) -> "DataOwnerItem":
        """Draw P0's material again. Raises PeerViolation if the file's content does not fit the plan."""
        from secure_computation.engines.masked.session.stock import restore_data_owner

        return restore_data_owner(
            self.lowering,
            self.bodies,
            item=self.binding.name,
            weights_version=self.binding.weights_version,
        )


class DataOwnerStock:
    """P0's stocked items of all models."""

    def __init__(
        self,
        folder: Path,
        *,
        key: StorageKey,
        days: float,
        most_items: int,
        ledger: ConsumptionLedger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep at most `most_items` in `folder`, sealed with `key`, for `days`; `ledger` notes which were used."""
        self._warnings: list[str] = []
        self._clock = clock
        self._folder = StockFolder(folder, key=key, days=days, ledger=ledger, warn=self._warnings.append, clock=clock)
        self._most_items = most_items

    def require_room(self) -> None:
        """Raise CallerError if no item may be added."""
        if len(self._folder.bindings()) >= self._most_items:
            raise CallerError(
                f"{self._most_items} items are stocked, the most that stock_items in the settings allows; diagnose "
                "with them, or wait until they are too old"
            )

    def put(self, claims: TicketClaims, lowering: "MaskedLowering", item: "DataOwnerItem", *, name: ItemName) -> None:
        """Keep what was prepared under a ticket."""
        from secure_computation.engines.masked.session.stock import data_owner_bodies

        binding = Binding.of(claims, item=name, weights_version=item.weights_version, now=self._clock())
        self._folder.put(binding, data_owner_bodies(lowering, item))

    def reserve(self, session: Wanted, images: int) -> AbstractContextManager[tuple[Binding, ...]]:
        """The oldest items for such a session, one for each image or none, kept from others until the block ends."""
        return self._folder.reserved(session, images)

    def holds(self, entry: ModelEntry) -> bool:
        """Whether there is an item for this version of a model, before a ticket says with whom."""
        wanted = (entry.card.name, entry.version, entry.plan_hash)
        return any((kept.model, kept.version, kept.plan_hash) == wanted for kept in self._folder.bindings())

    def take(self, reserved: Sequence[Binding], lowering: "MaskedLowering") -> tuple[TakenItem, ...]:
        """Consume the items that a ticket names; none if one of them cannot be read, and all are dropped then."""
        from secure_computation.engines.masked.session.stock import data_owner_sizes

        taken = list[TakenItem]()
        for binding in reserved:
            bodies = self._folder.take(binding, data_owner_sizes(lowering))
            if bodies is not None:
                taken.append(TakenItem(binding=binding, lowering=lowering, bodies=bodies))
        if len(taken) == len(reserved):
            return tuple(taken)
        self._warnings.extend(
            f"the stocked item {item.binding.item[:12]} is dropped: none was left for another image of its session"
            for item in taken
        )
        return ()

    def drop(self, reserved: Sequence[Binding], *, why: str) -> None:
        """Delete items that no session will spend."""
        for binding in reserved:
            self._folder.discard(binding.name)
            self._warnings.append(f"the stocked item {binding.item[:12]} is dropped: {why}")

    def warnings(self) -> tuple[str, ...]:
        """What was dropped as damaged since this was asked last."""
        warnings = tuple(self._warnings)
        self._warnings.clear()
        return warnings

    def summarise(self) -> tuple[StockedModel, ...]:
        """What is stocked, by model version and parties."""
        now = self._clock()
        groups: dict[tuple[str, str, str, str], list[float]] = {}
        for binding in self._folder.bindings():
            key = (binding.model, binding.version, binding.model_owner, binding.crypto_provider)
            groups.setdefault(key, []).append(max(0.0, now - binding.stocked_at))
        return tuple(
            StockedModel(
                model=model,
                version=version,
                model_owner=model_owner,
                crypto_provider=crypto_provider,
                items=len(ages),
                oldest_seconds=max(ages),
                newest_seconds=min(ages),
            )
            for (model, version, model_owner, crypto_provider), ages in sorted(groups.items())
        )


def open_stock(settings: DataOwnerSettings) -> DataOwnerStock:
    """The stock and the ledger that a data owner's settings name. Raises ConfigurationError if the disk will not."""
    return DataOwnerStock(
        settings.data_folder / "stock",
        key=StorageKey.of(settings.at_rest),
        days=settings.stock_days,
        most_items=settings.stock_items,
        ledger=ConsumptionLedger(settings.data_folder / "consumed"),
    )

"""A session to diagnose is opened with the names of the stocked items that it will spend.

The front end names an item once. So the model owner is reached first: while it is away, no item is lost.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from contract.api import ModelEntry
from contract.errors import ItemsSeen
from contract.identity import Party
from contract.ticket import STOCKED_ENGINES, Engine, Purpose
from data_owner.session_desk import OpenSession, SessionDesk
from data_owner.stock import DataOwnerStock
from secure_computation.channel.channel import Channel
from secure_computation.stock_folder import Binding


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A session, and what was got ready for it."""

    session: OpenSession
    items: tuple[Binding, ...]
    """Which its ticket names: one for each image, or none."""
    model_owner: Channel | None
    """A channel on which nothing was said yet; None where no item is named."""


def open_with_stock(
    desk: SessionDesk,
    stock: DataOwnerStock,
    entry: ModelEntry,
    engine: Engine,
    images: int,
    *,
    dial: Callable[[str, Party], Channel],
    kept_from_others: ExitStack,
) -> Opened:
    """Open a session that spends stocked items where there is one for each image.

    `dial` reaches the model owner at an address. `kept_from_others`: until it is closed, no other session of this data
    owner names these items. Items that the front end has seen before are dropped, with a warning of the stock, and
    others are named. Raises as `dial` and `SessionDesk.open`.
    """
    model_owner = None
    while True:
        items: tuple[Binding, ...] = ()
        if engine in STOCKED_ENGINES:
            items = kept_from_others.enter_context(stock.reserved(desk.wanted(entry), images))
        if items and model_owner is None:
            model_owner = dial(*desk.model_owner_of(entry))
        try:
            names = [binding.item for binding in items]
            session = desk.open(entry, engine, Purpose.DIAGNOSE, images=images, items=names)
            return Opened(session=session, items=items, model_owner=model_owner)
        except ItemsSeen:
            if not items:
                raise
            stock.drop(items, why="the front end has seen it, or one that was named with it, before")
            kept_from_others.close()

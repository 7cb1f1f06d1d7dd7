"""A session to diagnose is opened with the names of the stocked items that it will spend."""

from contextlib import ExitStack

from contract.api import ModelEntry
from contract.errors import ItemsSeen
from contract.ticket import STOCKED_ENGINES, Engine, Purpose
from data_owner.session_desk import OpenSession, SessionDesk
from data_owner.stock import DataOwnerStock
from secure_computation.stock_folder import Binding


def open_with_stock(
    desk: SessionDesk,
    stock: DataOwnerStock,
    entry: ModelEntry,
    engine: Engine,
    images: int,
    *,
    kept_from_others: ExitStack,
) -> tuple[OpenSession, tuple[Binding, ...]]:
    """Open a session; return it and the items that its ticket names: one for each image, or none.

    `kept_from_others`: until it is closed, no other session of this data owner names these items. Items that the front
    end has seen before are dropped, with a warning of the stock, and others are named. Raises as `SessionDesk.open`.
    """
    while True:
        items: tuple[Binding, ...] = ()
        if engine in STOCKED_ENGINES:
            items = kept_from_others.enter_context(stock.reserved(desk.wanted(entry), images))
        try:
            names = [binding.item for binding in items]
            return desk.open(entry, engine, Purpose.DIAGNOSE, images=images, items=names), items
        except ItemsSeen:
            if not items:
                raise
            stock.drop(items, why="the front end has seen it, or one that was named with it, before")
            kept_from_others.close()

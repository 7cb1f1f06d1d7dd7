"""The model owner's stock: its halves of prepared items, in a folder for each data owner."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.errors import MaterialSpent, Refused
from contract.files import private_folder
from contract.ticket import TicketClaims
from secure_computation.at_rest import StorageKey
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.sides import PreparedModelOwner
from secure_computation.engines.masked.session.stock import model_owner_bodies, model_owner_sizes, restore_model_owner
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.stock_folder import Binding, StockFolder

SWEEP_SECONDS: Final = 3600.0


class ModelOwnerStock:
    """P1's stocked items. For use by several threads of one process."""

    def __init__(
        self,
        folder: Path,
        *,
        key: StorageKey,
        days: float,
        most_items: int,
        ledger: ConsumptionLedger,
        warn: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """Keep at most `most_items` for each data owner in `folder`, sealed with `key`, for `days`."""
        self._folder = folder
        self._most_items = most_items
        self._ledger = ledger
        self._clock = clock
        self._open: Callable[[Path], StockFolder] = lambda path: StockFolder(
            path, key=key, days=days, ledger=ledger, warn=warn, clock=clock
        )
        self._arriving: dict[str, int] = {}
        self._lock = threading.Lock()
        private_folder(folder)
        self._swept_at = clock()
        self.drop_expired()

    def _sweep(self) -> None:
        """Drop what expired, once an hour at most: with the sessions of anybody."""
        with self._lock:
            due = self._clock() - self._swept_at >= SWEEP_SECONDS
            if due:
                self._swept_at = self._clock()
        if due:
            self.drop_expired()

    def drop_expired(self) -> None:
        """Delete what is too old, of every data owner: also of one that never comes again."""
        for path in self._folder.iterdir():
            self._open(path).bindings()

    @contextmanager
    def room(self, claims: TicketClaims) -> Iterator[None]:
        """Hold a place for one more item while it is prepared. Raises Refused if the data owner has its number."""
        owner = claims.data_owner
        self._sweep()
        with self._lock:
            arriving = self._arriving.get(owner, 0)
            if len(self._open_folder(owner).bindings()) + arriving >= self._most_items:
                raise Refused(
                    f"{self._most_items} items are stocked for {owner}, the most that it may have; diagnose with them, "
                    "or wait until they are too old"
                )
            self._arriving[owner] = arriving + 1
        try:
            yield
        finally:
            with self._lock:
                self._arriving[owner] -= 1

    @contextmanager
    def kept(
        self, claims: TicketClaims, lowering: MaskedLowering, prepared: PreparedModelOwner, *, weights_version: str
    ) -> Iterator[None]:
        """Keep an item; drop it if the block, in which the data owner keeps its half, fails."""
        binding = Binding.of(claims, item=prepared.item, weights_version=weights_version, now=self._clock())
        folder = self._open_folder(claims.data_owner)
        folder.put(binding, model_owner_bodies(lowering, prepared))
        try:
            yield
        except BaseException:
            folder.drop(prepared.item)
            raise

    def take(
        self, claims: TicketClaims, lowering: MaskedLowering, item: ItemName, *, weights_version: str
    ) -> PreparedModelOwner | None:
        """Consume the item that a data owner named; None if it is not kept (expired, damaged, lost, other weights).

        Raises: MaterialSpent if it was used before; Refused if it is for something else than this session.
        """
        self._sweep()
        folder = self._open_folder(claims.data_owner)
        binding = folder.find(item)
        if binding is None:
            if self._ledger.consumed(item):
                raise MaterialSpent(f"stocked item {item[:12]} was used before and is never used twice; name another")
            return None
        if not binding.fits(claims):
            raise Refused(
                f"stocked item {item[:12]} is for {binding.model} {binding.version} with other parties or another plan "
                "than this session; name one that was prepared for exactly this"
            )
        if binding.weights_version != weights_version:
            folder.drop(item)  # the version was imported again: what the data owner keeps masks other weights
            return None
        bodies = folder.take(binding, model_owner_sizes(lowering))
        return None if bodies is None else restore_model_owner(lowering, bodies, item=item)

    def drop(self, claims: TicketClaims) -> None:
        """Forget the items that a ticket names and its data owner will not spend."""
        for item in claims.items:
            self._open_folder(claims.data_owner).discard(ItemName(item))

    def _open_folder(self, data_owner: str) -> StockFolder:
        """The folder of one data owner, whose name is one of the contract's: no path."""
        return self._open(self._folder / data_owner)

"""All three roles of one masked session in one process, over memory channels: for tests, checks and reading.

It shows the whole protocol on one page and runs the same code as the parties do. It protects nothing: image and
weights are in one process.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.identity import Role
from secure_computation.channel.channel import Deadlines
from secure_computation.channel.memory import Recorders, closed_on_failure, memory_links
from secure_computation.channel.traffic import ChannelTraffic
from secure_computation.engines.interface import (
    Answer,
    DataOwnerSide,
    DealerSide,
    Label,
    ModelOwnerSide,
    Reply,
    require_answers,
)
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.sides import OnStep
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.protocols.draws import RingElements
from secure_computation.wire import Phase


@dataclass(frozen=True, kw_only=True)
class InProcessResult:
    """The answers as the data owner reads them, and the traffic of the channels, by phase."""

    replies: tuple[Reply, ...]
    """One for each image."""
    online: ChannelTraffic
    """Between P0 and P1, as P0 counted it: online and output."""
    offline: ChannelTraffic
    """Between P0 and P1, as P0 counted it."""
    dealt: ChannelTraffic
    """Between D and P1, as P1 counted it."""
    dealt_to_data_owner: ChannelTraffic
    """Between D and P0, as P0 counted it."""
    seeds: Mapping[ItemName, DealtSeeds] = field(repr=False)
    """Of both parties, by item: what they rounded by follows from them (`dither`)."""

    @property
    def offline_bytes(self) -> int:
        """All that crossed any channel before the image was used."""
        links = (self.offline, self.dealt, self.dealt_to_data_owner)
        return sum(link.bytes_sent + link.bytes_received for link in links)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """One for each image. Raises TypeError if an item was a decoy."""
        return require_answers(self.replies)

    @property
    def answer(self) -> Answer:
        """Of a session with one image. Raises TypeError if its item was a decoy."""
        (answer,) = self.answers
        return answer

    @property
    def logits(self) -> NDArray[np.float64]:
        """The answer of a plan that gives logits. Raises TypeError for a label."""
        if isinstance(self.answer, Label):
            raise TypeError("this plan gives a label and no logits")
        return self.answer


class MemoryStore:
    """Keeps masked weights for as long as the process runs."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[str, tuple[str, dict[str, RingElements]]] = {}

    def newest(self, model_owner: str, lowering: MaskedLowering) -> str | None:
        """See DeltaStore."""
        del lowering
        kept = self._kept.get(model_owner)
        return kept[0] if kept else None

    def load(self, model_owner: str, version: str, lowering: MaskedLowering) -> dict[str, RingElements] | None:
        """See DeltaStore."""
        del lowering
        kept = self._kept.get(model_owner)
        return dict(kept[1]) if kept and kept[0] == version else None

    def save(
        self, model_owner: str, version: str, lowering: MaskedLowering, deltas: Mapping[str, RingElements]
    ) -> None:
        """See DeltaStore."""
        del lowering
        self._kept[model_owner] = (version, dict(deltas))


@dataclass(frozen=True, kw_only=True)
class InProcessParties:
    """The three sides of one plan, of any engine."""

    dealer: DealerSide
    data_owner: DataOwnerSide[Any]
    model_owner: ModelOwnerSide[Any]


def run_in_process(
    parties: InProcessParties,
    image: NDArray[np.float32],
    *,
    item: ItemName,
    deadlines: Deadlines | None = None,
    recorders: Recorders | None = None,
    on_step: OnStep | None = None,
) -> InProcessResult:
    """Play D, P0 and P1, each in a thread, on one image with a fresh item. `on_step`: P1's, of the masked engine."""
    return run_batch_in_process(
        parties, [image], items=[item], deadlines=deadlines, recorders=recorders, on_step=on_step
    )


def run_batch_in_process(
    parties: InProcessParties,
    images: Sequence[NDArray[np.float32]],
    *,
    items: Sequence[ItemName],
    deadlines: Deadlines | None = None,
    recorders: Recorders | None = None,
    on_step: OnStep | None = None,
) -> InProcessResult:
    """Play D, P0 and P1, each in a thread, on images with a fresh item each, in one session."""
    progress: dict[str, Any] = {} if on_step is None else {"on_step": on_step}  # CrypTen's engine has none
    (p0_to_p1, p1_to_p0), (p0_to_d, d_to_p0), (p1_to_d, d_to_p1) = memory_links(deadlines, recorders)
    seeds = {item: DealtSeeds.fresh() for item in items}

    def dealer() -> None:
        with closed_on_failure(d_to_p0, d_to_p1):
            for channel, role in ((d_to_p0, Role.DATA_OWNER), (d_to_p1, Role.MODEL_OWNER)):
                for item in items:
                    parties.dealer.deal(channel, to=role, item=item, seeds=seeds[item])

    def data_owner() -> tuple[Reply, ...]:
        with closed_on_failure(p0_to_p1, p0_to_d):
            p0_to_p1.set_phase(Phase.OFFLINE)
            prepared = [
                parties.data_owner.prepare(item=item, dealer=p0_to_d, model_owner=p0_to_p1, patience_seconds=60.0)
                for item in items
            ]
            return parties.data_owner.run(
                images, prepared, model_owner=p0_to_p1, on_layer=lambda _index, _total, _name: None
            )

    def model_owner() -> None:
        with closed_on_failure(p1_to_p0, p1_to_d):
            p1_to_p0.set_phase(Phase.OFFLINE)
            prepared = [parties.model_owner.prepare(item=item, dealer=p1_to_d, data_owner=p1_to_p0) for item in items]
            parties.model_owner.run(prepared, data_owner=p1_to_p0, **progress)

    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="in-process") as pool:
        others: list[Future[None]] = [pool.submit(dealer), pool.submit(model_owner)]
        replies = pool.submit(data_owner).result()
        for future in others:
            future.result()
    online = p0_to_p1.traffic(Phase.ONLINE) + p0_to_p1.traffic(Phase.OUTPUT)
    return InProcessResult(
        replies=replies,
        online=online,
        offline=p0_to_p1.traffic(Phase.OFFLINE),
        dealt=p1_to_d.traffic(),
        dealt_to_data_owner=p0_to_d.traffic(),
        seeds=seeds,
    )

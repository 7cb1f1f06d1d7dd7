"""All three roles of one inference in one process, over memory channels: for tests, checks and reading.

It shows the whole protocol on one page and runs the same code as the parties do. It protects nothing: image and
weights are in one process.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_computation.channel.channel import Deadlines
from secure_computation.channel.memory import Recorders, closed_on_failure, memory_links
from secure_computation.channel.traffic import ChannelTraffic
from secure_computation.engines.crypten.engine import (
    agree_on_zero_sharing,
    receive_data_owner_material,
    receive_model_owner_material,
    run_data_owner,
    run_model_owner,
    send_data_owner_material,
    send_model_owner_material,
)
from secure_computation.engines.crypten.lowering import CrypTenLowering
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.network import Network
from secure_computation.private_weights import PrivateWeights
from secure_computation.wire import Phase


@dataclass(frozen=True, kw_only=True)
class InProcessResult:
    """Logits as the data owner reads them, and the traffic of the channel between P0 and P1, as P0 counted it."""

    logits: NDArray[np.float64]
    offline: ChannelTraffic
    online: ChannelTraffic
    output_bytes: int
    """Model owner to data owner, at the end."""
    dealt_bytes: int
    """Crypto provider to both."""


def run_in_process(
    network: Network,
    lowering: CrypTenLowering,
    weights: PrivateWeights,
    image: NDArray[np.float32],
    *,
    item: ItemName,
    deadlines: Deadlines | None = None,
    recorders: Recorders | None = None,
) -> InProcessResult:
    """Play D, P0 and P1, each in a thread, on a fresh item."""
    (p0_to_p1, p1_to_p0), (p0_to_d, d_to_p0), (p1_to_d, d_to_p1) = links = memory_links(deadlines, recorders)
    for end in (end for link in links for end in link):
        end.set_phase(Phase.OFFLINE)
    seeds = DealtSeeds.fresh()

    def dealer() -> None:
        with closed_on_failure(d_to_p0, d_to_p1):
            send_data_owner_material(d_to_p0, seeds)
            send_model_owner_material(d_to_p1, lowering, item=item, seeds=seeds)

    def data_owner() -> NDArray[np.float64]:
        with closed_on_failure(p0_to_p1, p0_to_d):
            return run_data_owner(
                network,
                image,
                lowering=lowering,
                material=receive_data_owner_material(p0_to_d, item),
                zero_sharing=agree_on_zero_sharing(p0_to_p1, item=item),
                channel=p0_to_p1,
                on_layer=lambda _index, _total, _name: None,
            )

    def model_owner() -> None:
        with closed_on_failure(p1_to_p0, p1_to_d):
            run_model_owner(
                network,
                weights,
                lowering=lowering,
                material=receive_model_owner_material(p1_to_d, lowering, item),
                zero_sharing=agree_on_zero_sharing(p1_to_p0, item=item),
                channel=p1_to_p0,
                on_layer=lambda _index, _total, _name: None,
            )

    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="in-process") as pool:
        others: list[Future[None]] = [pool.submit(dealer), pool.submit(model_owner)]
        logits = pool.submit(data_owner).result()
        for future in others:
            future.result()
    return InProcessResult(
        logits=logits,
        offline=p0_to_p1.traffic(Phase.OFFLINE),
        online=p0_to_p1.traffic(Phase.ONLINE),
        output_bytes=p0_to_p1.traffic(Phase.OUTPUT).bytes_received,
        dealt_bytes=d_to_p0.traffic().bytes_sent + d_to_p1.traffic().bytes_sent,
    )

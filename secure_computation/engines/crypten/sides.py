"""The crypten engine's three sides of a session (`engines.interface`), on its three calls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.identity import Role
from secure_computation.channel.channel import Channel
from secure_computation.engines.crypten.engine import (
    DataOwnerMaterial,
    MaskedWeights,
    ModelOwnerMaterial,
    ZeroSharing,
    agree_on_zero_sharing,
    open_masked_weights,
    receive_data_owner_material,
    receive_model_owner_material,
    run_data_owner,
    run_model_owner,
    send_data_owner_material,
    send_model_owner_material,
)
from secure_computation.engines.crypten.lowering import CrypTenLowering
from secure_computation.engines.interface import OnHeatMap, OnLayer
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.network import Network
from secure_computation.private_weights import PrivateWeights

_DEALT = "corrections received"


@dataclass(frozen=True, kw_only=True)
class PreparedDataOwner:
    """P0's material of one item, and what it agreed on with P1."""

    material: DataOwnerMaterial
    zero_sharing: ZeroSharing
    masked_weights: MaskedWeights


@dataclass(frozen=True, kw_only=True)
class PreparedModelOwner:
    """P1's material of one item, and what it agreed on with P0."""

    material: ModelOwnerMaterial
    zero_sharing: ZeroSharing
    masked_weights: MaskedWeights


class CrypTenDealer:
    """D's side of one plan."""

    def __init__(self, lowering: CrypTenLowering) -> None:
        """Deal for `lowering`."""
        self._lowering = lowering

    def deal(self, channel: Channel, *, to: Role, item: ItemName, seeds: DealtSeeds) -> None:
        """See DealerSide."""
        if to is Role.DATA_OWNER:
            send_data_owner_material(channel, seeds)
        else:
            send_model_owner_material(channel, self._lowering, item=item, seeds=seeds)


class CrypTenDataOwner:
    """P0's side of one plan."""

    def __init__(self, network: Network, lowering: CrypTenLowering) -> None:
        """Evaluate `network`."""
        self._network = network
        self._lowering = lowering

    def prepare(
        self, *, item: ItemName, dealer: Channel, model_owner: Channel, patience_seconds: float
    ) -> PreparedDataOwner:
        """See DataOwnerSide."""
        material = receive_data_owner_material(dealer, item)
        model_owner.receive_end(step=_DEALT, wait_seconds=patience_seconds)
        return PreparedDataOwner(
            material=material,
            zero_sharing=agree_on_zero_sharing(model_owner, item=item),
            masked_weights=open_masked_weights(
                self._network, None, lowering=self._lowering, material=material, channel=model_owner
            ),
        )

    def draw_ahead(self, prepared: PreparedDataOwner) -> None:
        """See DataOwnerSide. All draws together would take too much memory here: nothing is drawn ahead."""

    def run(
        self,
        images: Sequence[NDArray[np.float32]],
        prepared: Sequence[PreparedDataOwner],
        *,
        model_owner: Channel,
        on_layer: OnLayer,
        on_heat_map: OnHeatMap | None = None,
    ) -> tuple[NDArray[np.float64], ...]:
        """See DataOwnerSide. One image: see `choosing.require_room`.

        This engine opens logits only: a heat map would take a product on CrypTen's tensors more.
        """
        del on_heat_map
        (image,), (mine,) = images, prepared
        logits = run_data_owner(
            self._network,
            image,
            lowering=self._lowering,
            material=mine.material,
            zero_sharing=mine.zero_sharing,
            masked_weights=mine.masked_weights,
            channel=model_owner,
            on_layer=on_layer,
        )
        return (logits,)


class CrypTenModelOwner:
    """P1's side of one plan."""

    def __init__(self, network: Network, weights: PrivateWeights, lowering: CrypTenLowering) -> None:
        """Evaluate `network` with private `weights`."""
        self._network = network
        self._weights = weights
        self._lowering = lowering

    def prepare(self, *, item: ItemName, dealer: Channel, data_owner: Channel) -> PreparedModelOwner:
        """See ModelOwnerSide."""
        material = receive_model_owner_material(dealer, self._lowering, item)
        data_owner.send_end(step=_DEALT)
        return PreparedModelOwner(
            material=material,
            zero_sharing=agree_on_zero_sharing(data_owner, item=item),
            masked_weights=open_masked_weights(
                self._network, self._weights, lowering=self._lowering, material=material, channel=data_owner
            ),
        )

    def run(self, prepared: Sequence[PreparedModelOwner], *, data_owner: Channel) -> None:
        """See ModelOwnerSide. One image: see `choosing.require_room`."""
        (mine,) = prepared
        run_model_owner(
            self._network,
            self._weights,
            lowering=self._lowering,
            material=mine.material,
            zero_sharing=mine.zero_sharing,
            masked_weights=mine.masked_weights,
            channel=data_owner,
            on_layer=lambda _index, _total, _name: None,
        )

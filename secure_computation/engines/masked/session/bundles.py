"""Bundles on a channel, each of a layout that both sides know."""

import numpy as np

from secure_computation.channel.channel import Channel
from secure_computation.protocols.bundle import Bundle, BundleLayout


def send_bundle(channel: Channel, layout: BundleLayout, bundle: Bundle, *, step: str) -> None:
    """Send what `receive_bundle` reads there."""
    channel.send_bytes(layout.pack(bundle).data, step=step)


def receive_bundle(channel: Channel, layout: BundleLayout, *, step: str) -> Bundle:
    """Read a bundle of exactly this layout. Raises PeerViolation."""
    body = np.empty(layout.body_bytes, np.uint8)
    channel.receive_into(body.data, step=step)
    return layout.unpack(body, peer=str(channel.peer), step=step)

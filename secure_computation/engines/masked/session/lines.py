"""What one item sends and receives online: on a channel as it is; other lines are those of decoys (`decoys`)."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_computation.channel.channel import Channel
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.transcript import Transcript


class Line(Protocol):
    """One item's share of the online phase between P0 and P1."""

    def send(self, layout: BundleLayout, bundle: Bundle, *, step: str, answered: bool = True) -> None:
        """Send a message; `answered`: by the next one that is received and answers none sent before."""
        ...

    def receive(self, layout: BundleLayout, *, step: str) -> Bundle:
        """Read a message of exactly this layout. Raises PeerViolation."""
        ...

    def exchange_tensor(self, own: NDArray[np.int64], /, *, step: str) -> NDArray[Any]:
        """Where CrypTen computes: send a tensor and receive the peer's of the same shape."""
        ...


class ChannelLine:
    """A line on a channel."""

    def __init__(self, channel: Channel, transcript: Transcript | None = None) -> None:
        """Speak on `channel`, which other items of the session may share; note what crosses in `transcript`."""
        self._channel = channel
        self._transcript = transcript

    def send(self, layout: BundleLayout, bundle: Bundle, *, step: str, answered: bool = True) -> None:
        """See Line."""
        body = layout.pack(bundle)
        self._channel.send_bytes(body.data, step=step)
        if self._transcript is not None:
            self._transcript.note_sent(step, body, answered=answered)

    def receive(self, layout: BundleLayout, *, step: str) -> Bundle:
        """See Line."""
        body = receive_body(self._channel, layout, step=step)
        if self._transcript is not None:
            self._transcript.note_received(step, body)
        return layout.unpack(body, peer=str(self._channel.peer), step=step)

    def exchange_tensor(self, own: NDArray[np.int64], /, *, step: str) -> NDArray[Any]:
        """See Line."""
        if self._transcript is None:
            return self._channel.exchange_tensor(own, step=step)
        sent = own.copy()  # CrypTen computes in place
        other = self._channel.exchange_tensor(own, step=step)
        self._transcript.note_exchange(step, sent, other.copy())
        return other


def send_bundle(channel: Channel, layout: BundleLayout, bundle: Bundle, *, step: str) -> None:
    """Send a bundle as one frame."""
    channel.send_bytes(layout.pack(bundle).data, step=step)


def receive_bundle(channel: Channel, layout: BundleLayout, *, step: str) -> Bundle:
    """Read a bundle of exactly this layout. Raises PeerViolation."""
    return layout.unpack(receive_body(channel, layout, step=step), peer=str(channel.peer), step=step)


def receive_body(channel: Channel, layout: BundleLayout, *, step: str) -> NDArray[np.uint8]:
    """Read a bundle's body, which is still to be unpacked."""
    body = np.empty(layout.body_bytes, np.uint8)
    channel.receive_into(body.data, step=step)
    return body

"""A CrypTen user's own script as a session of this project: the public entry to the bridge.

Both parties in this process, to try a script:

    >>> import torch
    >>> from secure_computation.crypten_bridge.scripts import run_in_process
    >>> def script(crypten):
    ...     x = crypten.cryptensor(torch.tensor([1.0, 2.0, 3.0]), src=0)
    ...     y = crypten.cryptensor(torch.tensor([0.5, 0.5, 2.0]), src=1)
    ...     return (x * y).sum().get_plain_text().item()
    >>> run_in_process(script)
    (7.5, 7.5)

Two processes, or two machines: `network.join_session` at each party, `network.serve_dealer` at a third. The script
itself stays as it is, except that the session gives it the `crypten` package. `docs/crypten.md` shows all of it, and
what is refused.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from contract.errors import (
    DeadlineExceeded,
    EncryptedInferenceError,
    PeerDisconnected,
    PeerReported,
    PeerViolation,
)
from contract.identity import Role
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.memory import memory_links
from secure_computation.crypten_bridge.asking import ITEM, AskingProvider, DealerEnds, deal_on_request
from secure_computation.crypten_bridge.collectives import ScriptCommunicator
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.session import Script, Session, activate, agree_on_streams
from secure_computation.wire import OutOfStep

Result = TypeVar("Result")
PATIENCE: Final = Deadlines(step_seconds=600.0)
"""A script may compute for ten minutes between two messages."""
PARTY_ROLES: Final = (Role.DATA_OWNER, Role.MODEL_OWNER)
"""By rank."""


@contextmanager
def party_session(*, rank: int, peer: Channel, dealer: Channel, autograd: bool = True) -> Iterator[Any]:
    """Be one of the two parties in this block and this thread; gives the `crypten` package.

    Args:
        rank: 0 or 1.
        peer: channel to the other party.
        dealer: channel to D, where `deal_on_request` runs.
        autograd: whether CrypTen records operations for `backward`, as CrypTen does by itself.

    The channels are closed at the end, at once if the block fails: then the others do not wait for this party.
    """
    crypten = load_crypten()
    try:
        provider = AskingProvider(rank=rank, dealer=dealer)
        session = Session(
            communicator=ScriptCommunicator(rank=rank, channel=peer),
            provider=provider,
            streams=agree_on_streams(peer, item=ITEM, rank=rank),
            script=Script(autograd=autograd),
        )
        with _explain_parting(), activate(session):
            yield crypten
            provider.end()
            peer.send_end(step="end of script")
            peer.receive_end(step="end of script")
    except EncryptedInferenceError as error:
        for channel in (peer, dealer):
            channel.send_error(error.code, "the other party's script ended", step="end of session")
        raise
    finally:
        peer.close()
        dealer.close()


@contextmanager
def _explain_parting() -> Iterator[None]:
    """Parties out of step run different scripts, or on different tensors: neither has broken the protocol."""
    try:
        yield
    except OutOfStep as error:
        raise PeerViolation(
            f"the two parties' scripts part ways: here it is at '{error.step}', and there elsewhere; run the same "
            "script on both sides, on tensors of the same shapes and types"
        ) from None


def run_in_process(
    script: Callable[[Any], Result], *, autograd: bool = True, deadlines: Deadlines = PATIENCE
) -> tuple[Result, Result]:
    """Run a script as both parties and the dealer, each in a thread; returns what it gives at rank 0 and at rank 1.

    `script` takes the `crypten` package and asks it for its rank as CrypTen's scripts do
    (`crypten.communicator.get().get_rank()`). For trying and testing: all secrets are in one process. What the script
    raises is raised here.
    """
    load_crypten()
    (p0, p1), (p0_to_d, d_to_p0), (p1_to_d, d_to_p1) = memory_links(deadlines)

    def play(rank: int) -> Result:
        peer, dealer = ((p0, p0_to_d), (p1, p1_to_d))[rank]
        with party_session(rank=rank, peer=peer, dealer=dealer, autograd=autograd) as crypten:
            return script(crypten)

    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="crypten-script") as pool:
        dealing = pool.submit(deal_on_request, DealerEnds(d_to_p0, d_to_p1))
        parties = [pool.submit(play, rank) for rank in (0, 1)]
        outcomes = [*(party.exception() for party in parties), dealing.exception()]
    errors = [error for error in outcomes if error is not None]
    if errors:
        raise find_first_cause(errors)
    return parties[0].result(), parties[1].result()


def find_first_cause(errors: list[BaseException]) -> BaseException:
    """The error that made the others: one of the script's own, or else one that is not about a lost party."""
    return min(errors, key=lambda error: _LATER.get(getattr(error, "code", ""), 0))


_LATER: Final = {
    PeerReported.code: 2,
    PeerDisconnected.code: 2,
    DeadlineExceeded.code: 2,
    PeerViolation.code: 1,
}

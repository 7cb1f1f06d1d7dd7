"""Scripts between machines: the example of `docs/crypten.md`, and who is brought together with whom."""

import re
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from authority.enrolment import create_request, install_certificate, locate_credentials
from authority.signing import create_authority
from contract.errors import (
    Busy,
    ConfigurationError,
    DeadlineExceeded,
    EncryptedInferenceError,
    PeerDisconnected,
    PeerUnreachable,
)
from contract.identity import Credentials, Party, Role
from secure_computation.channel.channel import Deadlines
from secure_computation.channel.memory import memory_pair
from secure_computation.crypten_bridge import network
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.network import Introductions, Listen, Peer, join_session, make_dealer_app
from tests.signed_requests import sign_request

ROOT = Path(__file__).parents[3]
BLOCKS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs" / "crypten.md").read_text(), re.DOTALL))
HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-mary")
LABORATORY = Party(role=Role.MODEL_OWNER, organisation="north-lab")
DEALER = Party(role=Role.CRYPTO_PROVIDER, organisation="trust-centre")
FOLDERS = {HOSPITAL: "hospital", LABORATORY: "laboratory", DEALER: "dealer"}
SESSION = "ab" * 16
SHORT = Deadlines(connect_seconds=20, step_seconds=0.3)
PATIENT = Deadlines(connect_seconds=60, step_seconds=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates as the page names their folders."""
    base = tmp_path_factory.mktemp("scripts")
    authority = base / "authority"
    create_authority(authority)
    for party, name in FOLDERS.items():
        own = base / f"{name}-certificates"
        signed = base / f"{name}.pem"
        signed.write_bytes(sign_request(authority, create_request(party, own)))
        install_certificate(
            party, own, signed, authority=authority / "authority.pem", revocations=authority / "revoked.crl"
        )
    return base


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """By a port of the page, the one that the system chose; who wants to listen there is given the socket."""
    sockets = {port: socket.create_server(("127.0.0.1", 0), backlog=8) for port in (7202, 7203)}
    monkeypatch.setattr(network, "take_port", lambda _host, port, **_: sockets[port])
    yield {port: int(listener.getsockname()[1]) for port, listener in sockets.items()}
    for listener in sockets.values():
        listener.close()


def credentials(folder: Path, party: Party) -> Credentials:
    return locate_credentials(party, folder / f"{FOLDERS[party]}-certificates")


@contextmanager
def dealing(folder: Path) -> Iterator[None]:
    with network._listening(
        make_dealer_app(credentials(folder, DEALER), deadlines=PATIENT), Listen(host="127.0.0.1", port=7203)
    ):
        yield


def play(block: str, folder: Path, ports: dict[int, int]) -> dict[str, Any]:
    """Run a block of the page with the folders and ports of this test; its variables."""
    source = BLOCKS[block].replace('Path("', f'Path("{folder}/')
    for port, chosen in ports.items():
        source = source.replace(f"ws://127.0.0.1:{port}", f"ws://127.0.0.1:{chosen}")
    variables: dict[str, Any] = {}
    exec(compile(source.replace("print(script(crypten))", "result = script(crypten)"), block, "exec"), variables)
    return variables


def test_the_pages_example_gives_rank_0_the_result_and_rank_1_nothing(
    folder: Path, ports: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_crypten()
    shared = types.ModuleType("shared")
    exec(compile(BLOCKS["shared.py"], "shared.py", "exec"), vars(shared))
    monkeypatch.setitem(sys.modules, "shared", shared)
    with dealing(folder), ThreadPoolExecutor(max_workers=2) as pool:
        parties = [pool.submit(play, block, folder, ports) for block in ("hospital.py", "laboratory.py")]
        results = [party.result()["result"] for party in parties]
    assert torch.allclose(results[0], torch.tensor([[1.0], [2.5]]), atol=0.01)
    assert results[1] is None


@pytest.mark.slow
def test_the_pages_example_runs_in_three_processes(folder: Path, tmp_path: Path) -> None:
    free = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            free.append(str(listener.getsockname()[1]))
    for name, source in BLOCKS.items():
        text = source.replace('Path("', f'Path("{folder}/').replace("7202", free[0]).replace("7203", free[1])
        (tmp_path / name).write_text(text)
    run = {"env": {"PYTHONPATH": str(ROOT)}, "cwd": tmp_path, "stdout": subprocess.PIPE, "text": True}
    dealer = subprocess.Popen([sys.executable, "dealer.py"], **run)  # type: ignore[call-overload]
    try:
        parties = [
            subprocess.Popen([sys.executable, name], **run)  # type: ignore[call-overload]
            for name in ("laboratory.py", "hospital.py")
        ]
        said = [party.communicate(timeout=300)[0].strip() for party in parties]
    finally:
        dealer.terminate()
        dealer.communicate(timeout=60)
    assert said[0] == "None"
    assert re.fullmatch(r"tensor\(\[\[(1\.0|0\.99)\d*\],\s*\[(2\.5|2\.49)\d*\]\]\)", said[1])


class TestWhoMayJoin:
    def test_a_dealer_is_no_party(self, folder: Path) -> None:
        with (
            pytest.raises(ConfigurationError, match="no party of a script"),
            join_session(
                credentials(folder, DEALER), peer=Peer(organisation="st-mary"), dealer=Peer(organisation="other")
            ),
        ):
            pass

    def test_a_party_is_no_dealer(self, folder: Path) -> None:
        with pytest.raises(ConfigurationError, match="is not the certificate of a crypto-provider"):
            make_dealer_app(credentials(folder, HOSPITAL))

    def test_a_missing_address_is_named(self, folder: Path) -> None:
        for party, missing in ((HOSPITAL, "URL of the model-owner of north-lab"), (LABORATORY, "'listen'")):
            with (
                pytest.raises(ConfigurationError, match=missing),
                join_session(
                    credentials(folder, party),
                    peer=Peer(organisation="north-lab"),
                    dealer=Peer(organisation="trust-centre"),
                ),
            ):
                pass

    def test_a_party_that_nobody_answers_gives_up(self, folder: Path, ports: dict[int, int]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        here = Peer(organisation="north-lab", url=f"ws://127.0.0.1:{port}")
        with (
            pytest.raises(PeerUnreachable, match="north-lab"),
            join_session(credentials(folder, HOSPITAL), peer=here, dealer=here, deadlines=SHORT),
        ):
            pass
        with (
            pytest.raises(DeadlineExceeded, match="st-mary"),
            join_session(
                credentials(folder, LABORATORY),
                peer=Peer(organisation="st-mary"),
                dealer=here,
                listen=Listen(host="127.0.0.1", port=7202),
                deadlines=SHORT,
            ),
        ):
            pass


class TestIntroductions:
    """The dealer's desk, over channels in memory."""

    def come(self, desk: Introductions, party: Party, peer: str) -> BaseException | None:
        """What the desk raises for a party that says whom it means, and leaves."""
        own, dealers = memory_pair(party, DEALER)
        own.send_hello({"session": SESSION, "peer": peer}, step="introduction")
        own.close()
        try:
            desk.serve(dealers)
        except EncryptedInferenceError as error:
            return error
        return None

    def come_both(self, desk: Introductions, model_owner: Party) -> list[BaseException | None]:
        with ThreadPoolExecutor(max_workers=2) as pool:
            first = pool.submit(self.come, desk, HOSPITAL, LABORATORY.organisation)
            second = pool.submit(self.come, desk, model_owner, HOSPITAL.organisation)
            return [first.result(), second.result()]

    def test_two_that_name_each_other_meet(self) -> None:
        errors = self.come_both(Introductions(PATIENT), LABORATORY)
        # One has left its seat in peace; the other's session is over at once, since both have hung up.
        assert None in errors
        assert any(isinstance(error, PeerDisconnected) for error in errors)

    def test_two_of_whom_one_means_another_do_not_meet(self) -> None:
        stranger = Party(role=Role.MODEL_OWNER, organisation="elsewhere")
        assert all("has not come" in str(error) for error in self.come_both(Introductions(SHORT), stranger))

    @pytest.mark.parametrize(
        "said",
        [{}, {"session": "ab", "peer": "x"}, {"session": "ab" * 16, "peer": "../x"}],
        ids=["nothing", "short", "name"],
    )
    def test_what_names_no_session_is_refused(self, said: dict[str, object]) -> None:
        own, dealers = memory_pair(HOSPITAL, DEALER)
        own.send_hello(said, step="introduction")
        with pytest.raises(EncryptedInferenceError, match="which session"):
            Introductions(SHORT).serve(dealers)

    def test_no_more_wait_than_there_are_seats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(network, "MOST_WAITING", 0)
        assert isinstance(self.come(Introductions(SHORT), HOSPITAL, "north-lab"), Busy)

    def test_one_party_cannot_come_twice(self) -> None:
        desk = Introductions(SHORT)
        _, seated = memory_pair(HOSPITAL, DEALER)
        desk._waiting[SESSION, HOSPITAL.organisation, LABORATORY.organisation] = network._Waiting(seated)
        assert "came twice" in str(self.come(desk, HOSPITAL, LABORATORY.organisation))

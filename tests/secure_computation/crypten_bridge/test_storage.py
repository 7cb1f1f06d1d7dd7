"""`crypten.save` and `load`: a party's shares come back, pickles do not."""

import io
import pickle
import stat
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import CallerError
from secure_computation.crypten_bridge import objects
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.scripts import run_in_process

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda part: (
        st.lists(part, max_size=3)
        | st.tuples(part, part)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), part, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=15, deadline=None)
@given(VALUES)
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    assert come_back(value) == value


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_broken_file_is_refused_and_nothing_else(data: st.DataObject) -> None:
    file = io.BytesIO()
    objects.write_value(file, objects.take_apart({"a": torch.arange(3), "b": [1, "x"]}))
    whole = bytearray(file.getvalue())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(CallerError):
        objects.put_together(objects.read_parts(io.BytesIO(cut)))


def come_back(value: object) -> Any:
    file = io.BytesIO()
    objects.write_value(file, objects.take_apart(value))
    file.seek(0)
    return objects.put_together(objects.read_parts(file))


def test_what_comes_back_is_of_the_kind_that_was_written() -> None:
    class Pair(NamedTuple):
        left: int
        right: int

    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = come_back(module.state_dict())
    assert vars(state) == vars(module.state_dict())
    module.load_state_dict(state)
    size, learned = come_back((torch.Size((2, 0)), torch.ones(2, requires_grad=True)))
    assert type(size) is torch.Size
    assert size == (2, 0)
    assert learned.requires_grad
    for other in (Pair(1, 2), Counter("a"), torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(CallerError, match="stored or sent"):
            come_back(other)
    imaginary = torch.tensor([1 + 2j]).conj().imag
    assert come_back(imaginary).tolist() == [-2.0]


def test_an_encrypted_networks_state_is_saved_and_loaded(tmp_path: Path) -> None:
    def script(crypten: Any) -> list[torch.Tensor]:
        path = tmp_path / f"state-{crypten.communicator.get().get_rank()}"
        networks = [crypten.nn.Sequential(crypten.nn.Linear(2, 1), crypten.nn.BatchNorm1d(1)) for _ in range(2)]
        for network in networks:
            network.encrypt()
        crypten.save(networks[0].state_dict(), path)
        networks[1].load_state_dict(crypten.load(path))
        return [parameter.get_plain_text() for network in networks for parameter in network.parameters()]

    for opened in run_in_process(script):
        half = len(opened) // 2
        assert half == 4
        assert all(torch.equal(*pair) for pair in zip(opened[:half], opened[half:], strict=True))


def test_deep_data_is_refused() -> None:
    deep: Any = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(CallerError, match="deep"):
        objects.take_apart(deep)
    hostile = objects.MAGIC + (60_000).to_bytes(4, "little") + b"[" * 60_000
    with pytest.raises(CallerError, match="broken"):
        objects.read_parts(io.BytesIO(hostile))


def test_shares_are_saved_and_loaded(tmp_path: Path) -> None:
    value = torch.tensor([[1.5, -2.0], [0.25, 8.0]])

    def script(crypten: Any) -> list[Any]:
        rank = crypten.communicator.get().get_rank()
        x = crypten.cryptensor(value if rank == 0 else torch.zeros_like(value), src=0)
        tensors = [x, x > 0.0, x.to(crypten.mpc.ptype.binary)]
        crypten.save(tensors, tmp_path / f"shares-{rank}")
        return [
            (torch.equal(old.share, new.share), old.encoder.scale == new.encoder.scale, new.get_plain_text())
            for old, new in zip(tensors, crypten.load(tmp_path / f"shares-{rank}"), strict=True)
        ]

    for results in run_in_process(script):
        assert [result[:2] for result in results] == [(True, True)] * 3
        assert torch.equal(results[0][2], value)
        assert torch.equal(results[1][2], (value > 0).long())
        assert torch.equal(results[2][2], value)
    for rank in (0, 1):
        assert stat.S_IMODE((tmp_path / f"shares-{rank}").stat().st_mode) == 0o600


def test_a_share_is_for_the_rank_that_saved_it(tmp_path: Path) -> None:
    def script(crypten: Any) -> None:
        x = crypten.cryptensor(torch.ones(2), src=0)
        crypten.save(x, tmp_path / "of-both")
        crypten.communicator.get().barrier()
        crypten.load(tmp_path / "of-both").get_plain_text()

    with pytest.raises(CallerError, match="each party saves and loads a file of its own"):
        run_in_process(script)


def test_one_partys_tensor_becomes_an_encrypted_one(tmp_path: Path) -> None:
    value = torch.tensor([[0.5, 2.0, -1.0]])
    path = tmp_path / "weights"

    def script(crypten: Any) -> list[torch.Tensor]:
        rank = crypten.communicator.get().get_rank()
        crypten.save_from_party(value if rank == 1 else None, path, src=1)
        loaded = crypten.load_from_party(path if rank == 1 else None, src=1)
        preloaded = crypten.load_from_party(preloaded=value if rank == 0 else None, src=0)
        assert (loaded.src, preloaded.src) == (1, 0)
        return [loaded.get_plain_text(), preloaded.get_plain_text()]

    for results in run_in_process(script):
        assert all(torch.equal(result, value) for result in results)


def test_what_is_no_tensor_is_refused_at_both_parties(tmp_path: Path) -> None:
    def script(crypten: Any) -> str:
        try:
            crypten.load_from_party(tmp_path / "none", src=0, load_closure=lambda _: "text")
        except TypeError as error:
            return str(error)
        return ""

    assert all("no tensor" in said for said in run_in_process(script))


def test_a_script_may_bring_its_own_form() -> None:
    def script(crypten: Any) -> torch.Tensor:
        written: dict[str, Any] = {}
        crypten.save(torch.ones(2), "name", save_closure=lambda value, name: written.update({name: value}))
        result: torch.Tensor = crypten.load("name", load_closure=written.get)
        return result

    assert run_in_process(script)[0].tolist() == [1, 1]


@pytest.mark.parametrize("save", [torch.save, pickle.dump], ids=["torch", "pickle"])
def test_pickles_are_not_read(save: Any) -> None:
    file = io.BytesIO()
    save(torch.ones(2), file)
    file.seek(0)
    with pytest.raises(CallerError, match="pickles"):
        load_crypten().load(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="absent"):
        load_crypten().load(tmp_path / "absent")
    with pytest.raises(CallerError, match="load_from_party"):
        load_crypten().load(tmp_path / "absent", src=0)

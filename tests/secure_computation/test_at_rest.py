"""Sealed files: what goes in comes out, and nothing else does."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from contract.errors import ConfigurationError
from contract.files import private_folder
from plumbing.settings import AtRest
from secure_computation.at_rest import (
    Body,
    DamagedFile,
    SealedFile,
    StorageKey,
    read_sealed,
    seal,
    write_sealed,
)

KEY = StorageKey(bytes(range(32)))
MEBIBYTE = 1 << 20
OVERHEAD = 50 + 16 + 16
"""Of a file with an empty header and one chunk."""


def put(path: Path, bodies: list[Body], *, purpose: str = "test", context: str = "here", header: bytes = b"") -> Path:
    with path.open("wb") as file:
        seal(file, KEY, purpose=purpose, context=context, header=header, bodies=bodies)
    return path


def get(
    path: Path, sizes: list[int], *, key: StorageKey = KEY, purpose: str = "test", context: str = "here"
) -> list[Body]:
    with path.open("rb") as file:
        return SealedFile(file, key, purpose=purpose, context=context).read(sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1],
        [63],
        [64, 65],
        [0, 0, 5],
        [MEBIBYTE - 64],
        [MEBIBYTE],
        [MEBIBYTE - 128, 64, 1],
        [3 * MEBIBYTE + 7, 9],
    ],
)
def test_bodies_of_all_lengths_come_back(sizes: list[int], tmp_path: Path) -> None:
    bodies = [np.frombuffer(os.urandom(size), np.uint8) for size in sizes]
    path = put(tmp_path / "file", bodies, header=b"public")
    found = get(path, sizes)
    assert [body.tobytes() for body in found] == [body.tobytes() for body in bodies]
    assert all(body.ctypes.data % 16 == 0 for body in found if body.size)
    with path.open("rb") as file:
        assert SealedFile(file, KEY, purpose="test", context="here").header == b"public"


@given(st.lists(st.binary(max_size=300), max_size=4), st.binary(max_size=50))
def test_any_bodies_come_back(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], header: bytes) -> None:
    path = tmp_path_factory.mktemp("sealed") / "file"
    put(path, [np.frombuffer(content, np.uint8) for content in contents], header=header)
    assert [body.tobytes() for body in get(path, [len(content) for content in contents])] == contents


def test_nothing_of_it_stands_in_the_file_and_two_files_share_nothing(tmp_path: Path) -> None:
    secret = np.zeros(3 * MEBIBYTE, np.uint8)
    files = [put(tmp_path / name, [secret]).read_bytes() for name in ("a", "b")]
    for content in files:
        assert bytes(16) not in content
        blocks = [content[start : start + 16] for start in range(50, len(content) - 16, 16)]
        assert len(set(blocks)) == len(blocks)
    assert files[0][50:100] != files[1][50:100]


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = put(tmp_path / "file", [np.arange(70, dtype=np.uint8)], header=b"head")
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises((DamagedFile, ConfigurationError)) as caught:
            get(path, [70])
        assert ("another key" in str(caught.value)) is (14 <= place < 30)


@pytest.mark.parametrize("length", [0, 1, 13, 49, 50, 65, 66, 80, OVERHEAD, OVERHEAD + 1])
def test_a_file_that_is_cut_short_is_noticed(length: int, tmp_path: Path) -> None:
    path = put(tmp_path / "file", [np.arange(70, dtype=np.uint8)])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFile):
        get(path, [70])


def chunks_of(content: bytes) -> tuple[bytes, list[bytes]]:
    begin = 50 + 16
    return content[:begin], [content[at : at + MEBIBYTE + 16] for at in range(begin, len(content), MEBIBYTE + 16)]


@pytest.mark.parametrize("how", ["last missing", "first missing", "exchanged", "repeated", "one more"])
def test_chunks_stay_where_they_are(how: str, tmp_path: Path) -> None:
    """A file cut at a chunk's end is whole by its tags alone: the last chunk is marked."""
    size = 3 * MEBIBYTE
    path = put(tmp_path / "file", [np.zeros(size, np.uint8)])
    start, chunks = chunks_of(path.read_bytes())
    assert len(chunks) == 4
    changed = {
        "last missing": chunks[:-1],
        "first missing": chunks[1:],
        "exchanged": [chunks[1], chunks[0], *chunks[2:]],
        "repeated": [chunks[0], chunks[0], *chunks[2:]],
        "one more": [*chunks[:-1], chunks[2], chunks[-1]],
    }[how]
    path.write_bytes(start + b"".join(changed))
    for sizes in ([size], [size - 64], [size - MEBIBYTE], [size + MEBIBYTE]):
        with pytest.raises(DamagedFile):
            get(path, sizes)


def test_a_last_chunk_of_another_file_does_not_pass(tmp_path: Path) -> None:
    """The same key, purpose, context and length."""
    first, second = (put(tmp_path / name, [np.zeros(2 * MEBIBYTE, np.uint8)]) for name in ("a", "b"))
    (start, one), (_, other) = chunks_of(first.read_bytes()), chunks_of(second.read_bytes())
    first.write_bytes(start + b"".join([*one[:-1], other[-1]]))
    with pytest.raises(DamagedFile, match="was changed, cut short or moved"):
        get(first, [2 * MEBIBYTE])


def test_another_key_is_told_from_damage(tmp_path: Path) -> None:
    path = put(tmp_path / "file", [np.zeros(5, np.uint8)])
    with pytest.raises(ConfigurationError, match=r"another key than the one that at_rest in the settings gives"):
        get(path, [5], key=StorageKey(bytes(32)))


@pytest.mark.parametrize(("purpose", "context"), [("other", "here"), ("test", "there"), ("testh", "ere")])
def test_a_file_of_another_purpose_or_place_does_not_open(purpose: str, context: str, tmp_path: Path) -> None:
    path = put(tmp_path / "file", [np.zeros(5, np.uint8)])
    with pytest.raises(DamagedFile, match="moved"):
        get(path, [5], purpose=purpose, context=context)


@pytest.mark.parametrize("sizes", [[], [6], [4], [5, 0], [1 << 60], [0, 5]])
def test_lengths_are_held_against_the_file_before_memory_is_taken(sizes: list[int], tmp_path: Path) -> None:
    path = put(tmp_path / "file", [np.zeros(5, np.uint8)])
    with pytest.raises(DamagedFile, match="length"):
        get(path, sizes)


def test_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_sealed(path, KEY, b"content", purpose="p", context="c")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_sealed(path, KEY, purpose="p", context="c", limit=7).tobytes() == b"content"
    with pytest.raises(DamagedFile, match="larger"):
        read_sealed(path, KEY, purpose="p", context="c", limit=6)
    with pytest.raises(FileExistsError):
        write_sealed(path, KEY, b"other", purpose="p", context="c")


@pytest.mark.parametrize("text", ["5a" * 32, "5A" * 32, "Wl" + "pa" * 20 + "Wlo=", "5a" * 32 + "\n"])
def test_keys_in_both_forms(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    expected = StorageKey(b"Z" * 32).identity()
    if text.startswith("Wl"):
        import base64

        text = base64.b64encode(b"Z" * 32).decode()
        path.write_text(text)
    assert StorageKey.of(AtRest(key_file=path)).identity() == expected
    assert StorageKey.of(AtRest(key=SecretStr(text))).identity() == expected


@pytest.mark.parametrize("text", ["", "CANARY", "5a" * 31, "5a" * 33, "zz" * 32, "5a" * 4000, "\xff" * 20])
def test_keys_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    for settings in (AtRest(key_file=path), AtRest(key=SecretStr(text))):
        with pytest.raises(ConfigurationError) as caught:
            StorageKey.of(settings)
        assert "CANARY" not in str(caught.value).replace(str(path), "")


def test_a_key_that_is_not_there_comes_with_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no-key does not exist, .*: \(umask 077 && head -c 32 /dev/urandom"):
        StorageKey.of(AtRest(key_file=tmp_path / "no-key"))


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for systemd's credentials, which show an access list as the group."""
    path = tmp_path / "key"
    path.write_text("5a" * 32)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        StorageKey.of(AtRest(key_file=path))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    StorageKey.of(AtRest(key_file=path))


@pytest.mark.parametrize("given", [{}, {"key": "5a" * 32, "key_file": "key"}])
def test_settings_name_one_key(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="one of the two") as caught:
        AtRest.model_validate(given)
    assert "5a5a" not in str(caught.value)


def test_the_key_shows_nowhere() -> None:
    key = StorageKey(b"CANARY" * 5 + b"!!")
    assert "CANARY" not in f"{key!r} {key}"
    with pytest.raises(TypeError):
        key.__reduce__()
    assert KEY.identity() != StorageKey(bytes(32)).identity()


def test_a_folder_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    private_folder(tmp_path / "new" / "folder")
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/folder")} == {0o700}
    (tmp_path / "new").chmod(0o750)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        private_folder(tmp_path / "new")

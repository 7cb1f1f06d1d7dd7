"""What is written reaches its reader or is said to be lost: any name, any encoding, closed and full outputs."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from contract.errors import ConfigurationError
from plumbing.command_line import say
from plumbing.output import Bystander, json_line, path_bytes, path_text, printable, shown_path, write_out

NOT_UTF8 = Path(os.fsdecode(b"/films/M\xfcller \xe2\x82.dcm"))
NAMES = [
    b"plain.dcm",
    b"M\xfcller.dcm",
    "Müller.dcm".encode(),
    b"\x1b[31mred\x1b[0m.dcm",
    b"one\ntwo.dcm",
    b"[bold]tag[/bold].dcm",
    b"\xed\xa0\x80.dcm",
    "a\u202egpj.dcm".encode(),
    b"c1 \xc2\x9b2J.dcm",
    b"del\x7f.dcm",
]


class Line(BaseModel):
    file: str
    file_bytes: str | None = None


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_any_file_name_is_one_line_of_json_from_which_it_comes_back(name: bytes) -> None:
    path = Path(os.fsdecode(name))
    line = json_line(Line(file=path_text(path), file_bytes=path_bytes(path)))
    assert line.isascii()
    assert line.isprintable()
    read = json.loads(line)
    read["file"].encode()  # text that every reader takes
    assert (bytes.fromhex(read["file_bytes"]) if read["file_bytes"] else read["file"].encode()) == name


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_what_people_see_of_a_name_moves_no_cursor(name: bytes) -> None:
    shown = shown_path(Path(os.fsdecode(name)))
    assert shown.isprintable()
    shown.encode()


def test_bytes_that_are_no_text_are_told_apart() -> None:
    assert shown_path(NOT_UTF8) == r"/films/M\xfcller \xe2\x82.dcm"
    assert printable("a\x1b[2J\u202eb\U000e0001") == r"a\x1b[2J\u202eb\U000e0001"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    write_out("95 % █ Ł")
    assert raw.getvalue().decode(encoding).startswith("95 % ")
    assert raw.getvalue().endswith(b"\n")


def test_a_closed_or_full_stdout_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ConfigurationError, match="standard output is closed"):
        write_out("an answer")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(ConfigurationError, match="No space left on device"):
            write_out("an answer")


def test_nobody_reading_stderr_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full, io.TextIOWrapper(io.BytesIO(), encoding="ascii") as ascii_only:
        for stream in (None, full, ascii_only):
            monkeypatch.setattr(sys, "stderr", stream)
            say("█ a word")
            say("another")
        assert b"\\u2588 a word\nanother\n" in ascii_only.buffer.getvalue()
        monkeypatch.undo()
    closed = io.StringIO()
    closed.close()
    assert Bystander(closed).write("a word") == len("a word")


def test_a_full_stdout_changes_neither_status_nor_words_at_the_end() -> None:
    """The interpreter flushes what is left when it ends; that must not turn into another error."""
    program = "from plumbing.output import write_out\ntry: write_out('x')\nexcept Exception: raise SystemExit(3)"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (3, b"")


def test_descriptors_that_were_closed_are_given_to_no_file() -> None:
    """Closed before the program starts: what it opens then must not become its stdout or stderr."""
    program = (
        "import os, sys\nfrom plumbing.output import fill_standard_streams\nfill_standard_streams()\n"
        "sys.exit(os.open(os.devnull, os.O_RDONLY))"
    )
    closing = 'exec "$0" -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["/bin/sh", "-c", closing, sys.executable, program], check=False)
    assert done.returncode == 3

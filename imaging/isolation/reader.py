"""A file goes to a confined process within a time, and what comes back is parsed as hostile."""

import io
import os
import signal
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError, ImageError
from contract.model_card import InputSpecification
from imaging.formats import DecodedFile, FileFormat, Limits, open_bounded
from imaging.isolation.messages import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Answer,
    Arrays,
    PatientWords,
    Picture,
    Refusal,
    Request,
    Task,
    parse_answer,
)
from imaging.isolation.processes import Child, Processes
from imaging.isolation.warm import ENDED, UNCONFINED


class AnswerInvalid(Exception):
    """The confined process answers what cannot be: it is no longer ours, or it is broken."""


class Conversation:
    """A socket to a process that may be hostile. Every wait ends at the deadline with TimeoutError."""

    def __init__(self, connection: socket.socket, *, seconds: float) -> None:
        """`seconds`: for everything together, from now on."""
        self._connection, self._deadline = connection, time.monotonic() + seconds

    def ask(self, request: Request, content: Iterable[bytes], *, last: bool) -> None:
        """Send a request and a file. `last`: no other comes. Raises OSError if nobody takes them."""
        header = request.model_dump_json().encode()
        self._in_time().sendall(struct.pack(">I", len(header)) + header)
        for piece in content:
            self._in_time().sendall(piece)
        if last:
            self._connection.shutdown(socket.SHUT_WR)

    def answer(self, *, max_pixels: int, last: bool) -> tuple[Answer, Arrays]:
        """What is answered, and the arrays that follow, (rows, columns) each.

        Raises AnswerInvalid for what no decoder of ours answers, EOFError if it ends before its end.
        """
        (length,) = struct.unpack(">I", self._exactly(np.empty(LENGTH_BYTES, np.uint8)).data)
        if length > MAX_HEADER_BYTES:
            raise AnswerInvalid
        header = self._exactly(np.empty(length, np.uint8))
        try:
            answer = parse_answer(header.tobytes())
        except ValueError:
            raise AnswerInvalid from None
        arrays: Arrays = ()
        if isinstance(answer, Picture):
            if answer.rows * answer.columns > max_pixels:
                raise AnswerInvalid
            shape = (answer.rows, answer.columns)
            arrays = tuple(self._exactly(np.empty(shape, "<f4")) for _ in range(answer.arrays))
        if last and self._in_time().recv(1):
            raise AnswerInvalid
        return answer, arrays

    def _exactly(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same array, filled to its last byte."""
        left = array.reshape(-1).view(np.uint8)
        while left.size:
            count = self._in_time().recv_into(left.data)
            if count == 0:
                raise EOFError
            left = left[count:]
        return array

    def _in_time(self) -> socket.socket:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection


FILES_OF_A_PROCESS: Final = 16
"""Of a data set, that one process reads in turn."""
_LAST_WORDS_SECONDS: Final = 5.0
_PIECE: Final = 1 << 20
_INVALID: Final = (
    "reading this file gave an answer that makes no sense: the file may have been made to do harm; do not use it, and "
    "tell whoever looks after this machine"
)


class IsolatedReader:
    """Reads files, each in a confined process of its own; several at once if several threads ask."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self._bounds = processes, processes.bounds

    def read_picture(
        self, path: Path, specification: InputSpecification, limits: Limits, *, with_values: bool
    ) -> tuple[FileFormat, DecodedFile]:
        """Decode a file as `imaging.isolation.confined.decode` does; the values behind a picture only `with_values`.

        Raises ImageError, also for a file that takes too long or ends its process, and ConfigurationError if no
        process can be had.
        """
        with open_bounded(path, limits) as file:
            asked = _make_request(file, limits, specification, with_values=with_values)
            return _require_picture(*self._answered(asked, file), asked)

    def read_patient(self, path: Path, limits: Limits) -> PatientWords:
        """Who the patient is, by the words of a DICOM file. Raises as `read_picture`."""
        with open_bounded(path, limits) as file:
            answer, _ = self._answered(_make_request(file, limits), file)
        if not isinstance(answer, PatientWords):
            raise ImageError(_INVALID)
        return answer

    def _answered(self, request: Request, file: io.FileIO) -> tuple[Answer, Arrays]:
        with self._processes.child() as child:
            try:
                answer, arrays = _exchange(child, request, file, seconds=self._bounds.wall_seconds, last=True)
            except TimeoutError:
                raise _too_slow(self._bounds.wall_seconds) from None
            except AnswerInvalid:
                raise ImageError(_INVALID) from None
            except (EOFError, OSError):
                raise self._ended(child) from None
        if isinstance(answer, Refusal):
            raise ImageError(answer.text)
        return answer, arrays

    def _ended(self, child: Child) -> ImageError | ConfigurationError:
        """Why a process ended that did not answer."""
        child.status.settimeout(_LAST_WORDS_SECONDS)
        try:
            report = child.status.recv(ENDED.size)
        except OSError:
            report = b""
        if len(report) < ENDED.size:
            return ConfigurationError(
                "the process that reads pictures has ended, perhaps for want of memory: try again"
            )
        (how,) = ENDED.unpack(report)
        if os.WIFEXITED(how) and os.WEXITSTATUS(how) == UNCONFINED:
            return ConfigurationError(
                "this machine's Linux cannot confine the process that reads pictures, so none is read: allow seccomp "
                "filters (Linux on x86-64 or 64-bit ARM)"
            )
        if os.WIFSIGNALED(how) and os.WTERMSIG(how) == signal.SIGXCPU:
            return _too_slow(self._bounds.cpu_seconds)
        if os.WIFSIGNALED(how) and os.WTERMSIG(how) == signal.SIGKILL:
            return ImageError("this picture takes more memory or time to read than this machine has: export it smaller")
        return ImageError(
            "the file is damaged, or made to do harm: it ended the process that read it; export or copy it again"
        )


class BatchReader:
    """Reads the pictures of a data set: a confined process reads some of them in turn. For one thread.

    Faster for small pictures. The price: a file that takes its process over can lie about those that follow there.
    Whatever else than a picture a process answers is not believed: that file is read again, alone.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._alone = IsolatedReader(processes)
        self._kept = ExitStack()
        self._child: Child | None = None
        self._files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def read_picture(
        self, path: Path, specification: InputSpecification, limits: Limits, *, with_values: bool
    ) -> tuple[FileFormat, DecodedFile]:
        """As `IsolatedReader.read_picture`."""
        if self._files == FILES_OF_A_PROCESS:
            self._drop()
        child = self._child = self._child or self._kept.enter_context(self._processes.child())
        self._files += 1
        with open_bounded(path, limits) as file, suppress(AnswerInvalid, EOFError, OSError, ImageError):
            asked = _make_request(file, limits, specification, with_values=with_values)
            answered = _exchange(child, asked, file, seconds=self._processes.bounds.wall_seconds, last=False)
            return _require_picture(*answered, asked)
        self._drop()
        return self._alone.read_picture(path, specification, limits, with_values=with_values)

    def _drop(self) -> None:
        self._kept.close()
        self._child, self._files = None, 0


def _make_request(
    file: io.FileIO,
    limits: Limits,
    specification: InputSpecification | None = None,
    *,
    with_values: bool = False,
) -> Request:
    return Request(
        task=Task.PATIENT if specification is None else Task.PICTURE,
        specification=specification,
        with_values=with_values,
        file_bytes=os.fstat(file.fileno()).st_size,
        max_pixels=limits.max_pixels,
        max_file_bytes=limits.max_file_bytes,
    )


def _exchange(child: Child, request: Request, file: io.FileIO, *, seconds: float, last: bool) -> tuple[Answer, Arrays]:
    """Raises what a `Conversation` raises, and ImageError if the disk does not give the file."""
    conversation = Conversation(child.connection, seconds=seconds)
    conversation.ask(request, _read_pieces(file, request.file_bytes), last=last)
    return conversation.answer(max_pixels=request.max_pixels, last=last)


def _require_picture(answer: Answer, arrays: Arrays, asked: Request) -> tuple[FileFormat, DecodedFile]:
    """Raises ImageError for an answer that is no picture as it was asked for."""
    if not isinstance(answer, Picture) or (answer.has_values and not asked.with_values):
        raise ImageError(_INVALID)
    try:
        return answer.format, answer.decoded(arrays)
    except ValueError:
        raise ImageError(_INVALID) from None


def _too_slow(seconds: float) -> ImageError:
    return ImageError(
        f"this picture takes longer than {seconds:g} s to read: export it as PNG or as uncompressed DICOM"
    )


def _read_pieces(file: io.FileIO, byte_count: int) -> Iterator[bytes]:
    """So many bytes of a file. Raises ImageError if the disk does not give them."""
    try:
        while byte_count > 0:
            piece = file.read(min(byte_count, _PIECE))
            if not piece:
                raise ImageError("the file became shorter while it was read: try again")
            byte_count -= len(piece)
            yield piece
    except OSError as error:
        raise ImageError(f"the file cannot be read to its end ({error.strerror}): copy it again") from error

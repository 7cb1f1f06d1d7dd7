"""One file's way to a confined process and its answer's way back, within a time."""

import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.isolation.messages import LENGTH_BYTES, MAX_HEADER_BYTES, Answer, Arrays, Picture, Request, parse_answer


class AnswerInvalid(Exception):
    """The confined process answers what cannot be: it is no longer ours, or it is broken."""


class Conversation:
    """A socket to a process that may be hostile. Every wait ends at the deadline with TimeoutError."""

    def __init__(self, connection: socket.socket, *, seconds: float) -> None:
        """`seconds`: for everything together, from now on."""
        self._connection, self._deadline = connection, time.monotonic() + seconds

    def ask(self, request: Request, content: Iterable[bytes], *, last: bool) -> None:
        """Send a request and a file. `last`: no other comes. Raises OSError where nobody takes them."""
        header = request.model_dump_json().encode()
        self._in_time().sendall(struct.pack(">I", len(header)) + header)
        for piece in content:
            self._in_time().sendall(piece)
        if last:
            self._connection.shutdown(socket.SHUT_WR)

    def answer(self, *, max_pixels: int, last: bool) -> tuple[Answer, Arrays]:
        """What is answered, and the arrays that follow, (rows, columns) each.

        Raises AnswerInvalid for what no decoder of ours answers, EOFError where it ends before its end.
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

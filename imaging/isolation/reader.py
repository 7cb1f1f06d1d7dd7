"""A file goes to a confined process, and what comes back is parsed as hostile."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contract.errors import ConfigurationError, ImageError
from contract.model_card import InputSpecification
from imaging.formats import DecodedFile, FileFormat, Limits, open_bounded
from imaging.isolation.conversation import AnswerInvalid, Conversation
from imaging.isolation.messages import Answer, Arrays, PatientWords, Picture, Refusal, Request, Task
from imaging.isolation.processes import Child, Processes
from imaging.isolation.warm import ENDED, UNCONFINED

_LAST_WORDS_SECONDS: Final = 5.0
_PIECE: Final = 1 << 20
_INVALID: Final = (
    "reading this file gave an answer that makes no sense: the file may have been made to do harm; do not use it, and "
    "tell whoever looks after this machine"
)


class IsolatedReader:
    """Reads files, each in a confined process of its own; several at once where several threads ask."""

    def __init__(self, processes: Processes) -> None:
        """`processes`: where they come from, and what each file may take."""
        self._processes, self._bounds = processes, processes.bounds

    def read_picture(
        self, path: Path, specification: InputSpecification, limits: Limits, *, with_values: bool
    ) -> tuple[FileFormat, DecodedFile]:
        """Decode a file as `imaging.decoding.decode` does; the values behind a picture only `with_values`.

        Raises ImageError, also for a file that takes too long or ends its process, and ConfigurationError where no
        process can be had.
        """
        request = Request(
            task=Task.PICTURE,
            specification=specification,
            with_values=with_values,
            max_pixels=limits.max_pixels,
            max_file_bytes=limits.max_file_bytes,
        )
        answer, arrays = self._read(path, request, limits)
        if not isinstance(answer, Picture) or (answer.has_values and not with_values):
            raise ImageError(_INVALID)
        try:
            return answer.format, answer.decoded(arrays)
        except ValueError:
            raise ImageError(_INVALID) from None

    def read_patient(self, path: Path, limits: Limits) -> PatientWords:
        """Who the patient is, by the words of a DICOM file. Raises as `read_picture`."""
        request = Request(task=Task.PATIENT, max_pixels=limits.max_pixels, max_file_bytes=limits.max_file_bytes)
        answer, _ = self._read(path, request, limits)
        if not isinstance(answer, PatientWords):
            raise ImageError(_INVALID)
        return answer

    def _read(self, path: Path, request: Request, limits: Limits) -> tuple[Answer, Arrays]:
        with open_bounded(path, limits) as file, self._processes.child() as child:
            conversation = Conversation(child.connection, seconds=self._bounds.wall_seconds)
            try:
                conversation.ask(request, _pieces(file))
                answer, arrays = conversation.answer(max_pixels=limits.max_pixels)
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
            told = child.status.recv(ENDED.size)
        except OSError:
            told = b""
        if len(told) < ENDED.size:
            return ConfigurationError(
                "the process that reads pictures has ended, perhaps for want of memory: try again"
            )
        (how,) = ENDED.unpack(told)
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


def _too_slow(seconds: float) -> ImageError:
    return ImageError(
        f"this picture takes longer than {seconds:g} s to read: export it as PNG or as uncompressed DICOM"
    )


def _pieces(file: io.FileIO) -> Iterator[bytes]:
    """A file's content, as long as it was when it was opened. Raises ImageError where the disk does not give it."""
    left = os.fstat(file.fileno()).st_size
    try:
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
    except OSError as error:
        raise ImageError(f"the file cannot be read to its end ({error.strerror}): copy it again") from error

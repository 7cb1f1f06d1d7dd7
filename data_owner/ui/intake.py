"""A file arrives on the page: written down as it comes, then read."""

import hashlib
import threading
from collections.abc import AsyncIterator
from typing import Final

from contract.api import ModelEntry
from contract.errors import EncryptedInferenceError, ImageError, Refused
from contract.files import open_new
from data_owner.ui.batch import learn_name
from data_owner.ui.entries import Entry, State
from data_owner.ui.workplace import Workplace

READERS_AT_ONCE: Final = 3
"""Files that are read at the same time: each takes memory in proportion to its picture, and one may take a minute."""
_PLACES = threading.BoundedSemaphore(READERS_AT_ONCE)


async def receive_file(entry: Entry, chunks: AsyncIterator[bytes], *, most_bytes: int) -> None:
    """Write a request's body into an entry's file (0600), never more than `most_bytes`. Raises ImageError, Refused."""
    digest, length = hashlib.sha256(), 0
    try:
        with open_new(entry.file) as file:
            async for chunk in chunks:
                length += len(chunk)
                if length > most_bytes:
                    raise ImageError(f"the file has more than {most_bytes >> 20} MiB: export the image smaller")
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise Refused(f"the file cannot be kept ({error.strerror}): make room in the data folder") from error
    entry.digest = digest.hexdigest()


def read_file(workplace: Workplace, entry: Entry) -> None:
    """Read an entry's file for the model; whatever is wrong with it is told in the entry.

    As many files as `READERS_AT_ONCE` are read at the same time; whoever calls for another waits.
    """
    while True:
        with entry.reading, _PLACES:
            learn_name(workplace, entry)
            if (model := workplace.model) is not None and entry.state is State.WAITING:
                _read_for(workplace, entry, model)
            if workplace.entry(entry.id) is None:
                entry.delete_files()  # removed meanwhile
        # Another model may have come meanwhile: read_waiting leaves an entry to whoever holds its lock.
        if workplace.model is None or entry.state is not State.WAITING:
            return


def read_waiting(workplace: Workplace) -> None:
    """Begin to read every file that waits. The caller does not wait for that: one file may take a minute."""
    entries = [entry for entry in workplace.waiting() if not entry.reading.locked()]
    waiting = iter(entries)

    def read_all() -> None:
        for entry in waiting:  # threads share the list: each takes the next
            read_file(workplace, entry)

    for _ in range(min(READERS_AT_ONCE, len(entries))):
        threading.Thread(target=read_all, name="reading", daemon=True).start()


def _read_for(workplace: Workplace, entry: Entry, model: ModelEntry) -> None:
    from data_owner.ui.patient import read_patient
    from data_owner.ui.reading import read_entry

    if entry.answer is None:
        entry.answered_before = workplace.history.find_by_file(
            entry.digest, model=model.card.name, version=model.version
        )
    try:
        patient = read_patient(entry.file)
        entry.patient = None if patient is None else patient.make_code(workplace.patient_key)
        image, facts = read_entry(entry, model.card)
    except EncryptedInferenceError as error:
        workplace.refuse_reading(entry, error, model)
    else:
        workplace.accept_reading(entry, image, facts, model)

"""A file arrives on the page: written down as it comes, then read."""

import hashlib
import os
import threading
from collections.abc import AsyncIterator

from contract.errors import EncryptedInferenceError, ImageError, Refused
from data_owner.ui.batch import learn_name
from data_owner.ui.entries import Entry, State
from data_owner.ui.workplace import Workplace

_ONE_AT_A_TIME = threading.Lock()
"""Reading takes memory in proportion to the picture."""


async def receive_file(entry: Entry, chunks: AsyncIterator[bytes], *, most_bytes: int) -> None:
    """Write a request's body into an entry's file (0600), never more than `most_bytes`. Raises ImageError, Refused."""
    digest, length = hashlib.sha256(), 0
    try:
        descriptor = os.open(entry.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
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
    """Read an entry's file for the model; whatever is wrong with it is told in the entry."""
    from data_owner.ui.patient import read_patient
    from data_owner.ui.reading import read_entry

    learn_name(workplace, entry)
    with _ONE_AT_A_TIME:
        model = workplace.model
        if model is None or entry.state is not State.WAITING:
            return
        if entry.answer is None:
            entry.answered_before = workplace.history.of_file(
                entry.digest, model=model.card.name, version=model.version
            )
        patient = read_patient(entry.file)
        entry.patient = None if patient is None else patient.told_apart(workplace.patient_key)
        try:
            image, facts = read_entry(entry, model.card)
        except EncryptedInferenceError as error:
            workplace.was_refused(entry, error)
            return
        workplace.was_read(entry, image, facts)
        if workplace.entry(entry.id) is None:
            entry.delete_files()  # removed meanwhile

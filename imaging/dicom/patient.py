"""Who the patient is, as a DICOM file says: for the page, which shows names where the clinician asks for that."""

import io
from typing import Final

from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from imaging.dicom.patient_age import AGE_TAGS, completed_years
from imaging.dicom.syntax import open_dicom
from imaging.formats import FileFormat, sniff, third_party_reader
from imaging.isolation.messages import MAX_LINE, PatientWords

_TAGS: Final = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber")
_WHOLE_TAGS: Final = sorted({*_TAGS, *AGE_TAGS})


def read_patient_words(source: io.BytesIO) -> PatientWords:
    """What the file says; nothing of one that is not DICOM, or is deflated. Raises ImageError for a damaged one."""
    if sniff(source) is not FileFormat.DICOM:
        return PatientWords()
    with third_party_reader("the DICOM file"):
        file = open_dicom(source)
        if file.transfer_syntax == DeflatedExplicitVRLittleEndian:
            return PatientWords()  # all of it would have to be inflated first
        header = dcmread(file.beginning(), stop_before_pixels=True, specific_tags=_WHOLE_TAGS)
        name, identifier, born, study, accession = (str(header.get(tag) or "")[:MAX_LINE] for tag in _TAGS)
        return PatientWords(
            name=name,
            identifier=identifier,
            born=born,
            study=study,
            accession=accession,
            years=completed_years(header),
        )

"""View, orientation and region of the body, as DICOM's tags tell them (PS3.3 C.7.6.1.1.1 and C.8.11.5)."""

import re
from types import MappingProxyType
from typing import Final

from pydicom import Dataset

from imaging.dicom.tags import read_code, read_codes, read_items, read_texts
from imaging.formats import ImageWarning, ImageWarnings
from imaging.suitability import FRONTAL, FRONTAL_VIEWS, GROUPS, LATERAL, LATERAL_VIEWS

GEOMETRY_TAGS: Final = (
    *("ViewPosition", "ViewCodeSequence", "PatientOrientation", "BodyPartExamined", "AnatomicRegionSequence"),
)

_PROJECTED = frozenset({"CR", "DX", "DR", "RF", "RG", "XA", "OT", "SC", None})
"""Modalities whose pictures are shown upright, with the patient's right on the left; or nobody knows which it is."""
_LIMBS = frozenset(
    {
        *("HAND", "FINGER", "THUMB", "WRIST", "FOREARM", "ELBOW", "HUMERUS", "ARM", "SHOULDER", "EXTREMITY", "JAW"),
        *("FOOT", "TOE", "ANKLE", "CALCANEUS", "HEEL", "LEG", "TIBIA", "FIBULA", "PATELLA", "KNEE", "THIGH", "FEMUR"),
    }
)
"""Parts that people lay and show as they like."""

_VIEW_WORDS = MappingProxyType(
    {
        "LAT": LATERAL,
        "LATERAL": LATERAL,
        "LLAT": "LL",
        "LEFT LATERAL": "LL",
        "RLAT": "RL",
        "RIGHT LATERAL": "RL",
        "FRONTAL": FRONTAL,
        "POSTERO ANTERIOR": "PA",
        "ANTERO POSTERIOR": "AP",
    }
)
_CODES_OF_VIEWS = MappingProxyType(
    {
        ("399348003", "R-10206"): "AP",
        ("272479007", "R-10214", "R-40888"): "PA",
        ("399033003", "R-10202"): FRONTAL,
        ("399067008", "R-102CD"): LATERAL,
        ("399173006", "R-10236"): "LL",
        ("399198007", "R-10232"): "RL",
        ("399162004", "R-10242"): "CC",
        ("399260004", "R-10224"): "ML",
        ("399352003", "R-10228"): "LM",
        ("399368009", "R-10226"): "MLO",
        ("399099002", "R-10230"): "LMO",
        ("399182000", "399236003", "399184004", "399059000", "399312000", "399135007"): "OBLIQUE",
        ("399356000", "399006002", "399038007", "399160007", "260427002", "260426006"): "OBLIQUE",
        ("R-102C1", "R-10234", "R-10238", "R-10216", "R-10208", "R-10220", "R-40985"): "OBLIQUE",
        ("R-10212", "R-10210", "R-10204", "R-40783", "R-40782"): "OBLIQUE",
        ("399061009", "R-10241"): "AXIAL",
    }
)
"""SNOMED CT's codes and their older forms (PS3.16 CID 4010 and 4014) -> views."""
_CODES_OF_REGIONS = MappingProxyType(
    {
        ("51185008", "816094009", "43799004", "39607008", "72410000"): "CHEST",
        ("T-D3000", "T-D3200", "T-28000", "T-D3300"): "CHEST",
        ("113345001", "818981001", "818983003", "T-D4000"): "ABDOMEN",
        ("12921003", "816092008", "T-D6000"): "PELVIS",
        ("818982008", "R-FAB57"): "ABDOMENPELVIS",
        ("416550000", "R-FAB55"): "CHESTABDOMEN",
        ("416775004", "R-FAB56"): "CHESTABDPELVIS",
        ("417437006", "R-FAB52"): "NECKCHEST",
        ("69536005", "T-D1100"): "HEAD",
        ("89546000", "T-11100"): "SKULL",
        ("45048000", "T-D1600"): "NECK",
        ("76752008", "T-04000"): "BREAST",
        ("80891009", "T-32000"): "HEART",
        ("113197003", "T-11300"): "RIB",
        ("56873002", "T-11210"): "STERNUM",
        ("51299004", "T-12310"): "CLAVICLE",
        ("79601000", "T-12280"): "SCAPULA",
        ("16982005", "T-D2220"): "SHOULDER",
        ("421060004", "T-D04FF"): "SPINE",
        ("122494005", "T-11501"): "CSPINE",
        ("122495006", "T-11502"): "TSPINE",
        ("122496007", "T-11503"): "LSPINE",
        ("54735007", "T-11AD0"): "SSPINE",
        ("91397008", "T-11196"): "FACIAL BONES",
        ("363654007", "T-D14AE"): "ORBIT",
        ("32849002", "T-56000"): "ESOPHAGUS",
        ("69695003", "T-57000"): "STOMACH",
        ("71854001", "T-59300"): "COLON",
        ("89837001", "T-74000"): "BLADDER",
        ("39723000", "T-15680"): "SIJOINT",
        ("71341001", "T-12710"): "FEMUR",
        ("12611008", "T-12740"): "TIBIA",
        ("87342007", "T-12750"): "FIBULA",
        ("64234005", "T-12730"): "PATELLA",
        ("80144004", "T-12770"): "CALCANEUS",
        ("85050009", "T-12410"): "HUMERUS",
        ("29836001", "24136001", "T-D2500", "T-15710"): "HIP",
        ("66019005", "T-D0300"): "EXTREMITY",
        ("40983000", "53120007", "T-D8200", "T-D8000"): "ARM",
        ("16953009", "T-15430"): "ELBOW",
        ("14975008", "T-D8500"): "FOREARM",
        ("74670003", "T-15460"): "WRIST",
        ("85562004", "T-D8700"): "HAND",
        ("7569003", "T-D8800"): "FINGER",
        ("76505004", "T-D8810"): "THUMB",
        ("61685007", "30021000", "T-D9000", "T-D9400"): "LEG",
        ("68367000", "T-D9100"): "THIGH",
        ("72696002", "T-D9200"): "KNEE",
        ("70258002", "T-15750"): "ANKLE",
        ("56459004", "T-D9700"): "FOOT",
        ("29707007", "T-D9800"): "TOE",
        ("661005", "91609006", "T-D1213", "T-11180"): "JAW",
        ("38266002", "T-D0010"): "WHOLEBODY",
        ("706342009", "R-FE0C7"): "PHANTOM",
    }
)
"""Codes of regions -> BodyPartExamined (PS3.16 Annex L); the lungs and the mediastinum are parts of a chest."""
_VIEWS, _REGIONS = (
    MappingProxyType({one: meaning for codes, meaning in table.items() for one in codes})
    for table in (_CODES_OF_VIEWS, _CODES_OF_REGIONS)
)


def read_body_parts(tags: Dataset) -> tuple[str, ...]:
    """What BodyPartExamined and AnatomicRegionSequence say, each once; nothing for a code that is not known here."""
    by_code = _REGIONS.get(_read_first_code(tags, "AnatomicRegionSequence"))
    named = (*read_codes(tags, "BodyPartExamined"), *(() if by_code is None else (by_code,)))
    return tuple(dict.fromkeys(named))


def read_views(tags: Dataset) -> tuple[str, ...]:
    """The view by its own tags, and by the orientation if that can only be one."""
    named = [_spell_view(read_code(tags, "ViewPosition")), _VIEWS.get(_read_first_code(tags, "ViewCodeSequence"))]
    views = [view for view in named if view is not None]
    side = _find_side(tags)
    known = FRONTAL_VIEWS | LATERAL_VIEWS
    if side is not None and (not views or known & {*views}):
        views.append(side)
    return tuple(view for view in dict.fromkeys(views) if not _is_implied(view, views))


def check_orientation(tags: Dataset) -> ImageWarnings:
    """Ask about a picture that by its own PatientOrientation does not lie as radiographs are shown."""
    if not _is_shown_upright(tags):
        return ()
    directions = _read_directions(tags)
    if directions is None:
        if not read_texts(tags, "PatientOrientation"):
            return ()
        text = "the file's tag of how the patient lies (PatientOrientation) cannot be read; it was left out"
        return (ImageWarning("bad-orientation", text),)
    along_rows, along_columns = directions
    if along_columns == "F":
        if along_rows != "R":
            return ()
        how = "mirrored: the patient's left is on the left"
    elif along_columns == "H":
        how = "upside down"
    elif along_rows in ("F", "H"):
        how = "turned on its side"
    else:
        how = "not upright: neither rows nor columns run from head to feet"
    text = f"by the file's tags the picture is {how}; look at it, and export it as it is usually shown"
    return (ImageWarning("orientation", text, needs_confirmation=True),)


def _is_implied(view: str, views: list[str]) -> bool:
    """Whether `view` only repeats a more exact one."""
    return bool((GROUPS.get(view, frozenset()) - {view}) & {*views})


def _spell_view(named: str | None) -> str | None:
    plain = None if named is None else re.sub("[ _]+", " ", named)
    return plain if plain is None else _VIEW_WORDS.get(plain, plain)


def _read_first_code(tags: Dataset, keyword: str) -> str:
    return next((value for item in read_items(tags, keyword)[:1] for value in read_texts(item, "CodeValue")[:1]), "")


def _read_directions(tags: Dataset) -> tuple[str, str] | None:
    """Where rows and columns run to, by the first letter of each; None if the tag does not say."""
    found = [value.upper()[:1] for value in read_texts(tags, "PatientOrientation")]
    if len(found) != 2 or not {*found} <= {*"LRAPHF"}:
        return None
    return found[0], found[1]


def _is_shown_upright(tags: Dataset) -> bool:
    """Whether the picture is a projection of a trunk or head: limbs are laid and shown as people like."""
    return read_code(tags, "Modality") in _PROJECTED and not _LIMBS & {*read_body_parts(tags)}


def _find_side(tags: Dataset) -> str | None:
    """Frontal or lateral, by the axes of the picture."""
    axes = {*(_read_directions(tags) or ())} if _is_shown_upright(tags) else set()
    if axes & {*"HF"}:
        if axes & {*"LR"}:
            return FRONTAL
        if axes & {*"AP"}:
            return LATERAL
    return None

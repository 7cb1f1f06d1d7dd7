"""What types that cross a boundary are made of: the strict base class, names, versions, hashes, canonical bytes."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
"""Names of models and organisations: lower case, digits and hyphens, as in a host name."""

Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=60)]
"""Three numbers. Its length is that of a file's name at most, and such that each number can be read."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""


class Strict(BaseModel):
    """Base of everything that crosses a boundary: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(content: BaseModel) -> bytes:
    """What is hashed or signed, written in the one way that gives every party the same bytes for the same content.

    Every field, also one that was left out and has its default: sorted by name, without spaces, in ASCII. A number is
    written in the shortest form that reads back as the same one, so what was read from JSON, kept in a database and
    read again gives the same bytes.
    """
    return json.dumps(content.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode("ascii")

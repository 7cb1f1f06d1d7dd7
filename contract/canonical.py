"""The one way in which what is hashed or signed is written down: the same content gives every party the same bytes."""

import json

from pydantic import BaseModel


def canonical_json(content: BaseModel) -> bytes:
    """Every field, also one that was left out and has its default: sorted by name, without spaces, in ASCII.

    A number is written in the shortest form that reads back as the same one, so what was read from JSON, kept in a
    database and read again gives the same bytes.
    """
    return json.dumps(content.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode("ascii")

"""A data owner's settings file for a federation that runs in this process."""

from pathlib import Path

import tomli_w

from tests.end_to_end.federation import HOSPITAL, STORAGE_KEY, Federation


def write_settings(federation: Federation, path: Path, *, url: str | None = None) -> Path:
    """Write `path`; the data folder stands beside it. `url`: of the front end, if not the one that runs."""
    settings = federation.data_owner_settings()
    credentials = federation.credentials(HOSPITAL)
    content = {
        "data_folder": str(path.parent / "data"),
        "ticket_keys": [str(key) for key in settings.ticket_keys],
        "at_rest": {"key": STORAGE_KEY},
        "credentials": {
            "key": str(credentials.key),
            "certificate": str(credentials.certificate),
            "authority": str(credentials.authority),
            "revocations": str(credentials.revocations),
        },
        "inference_service": {
            "url": url or settings.inference_service.url,
            "api_key": settings.inference_service.api_key.get_secret_value(),
        },
        "model_owners": [{"organisation": one.organisation} for one in settings.model_owners],
        "crypto_providers": [{"organisation": one.organisation} for one in settings.crypto_providers],
    }
    path.write_text(tomli_w.dumps(content))
    path.chmod(0o600)
    return path

"""Settings: one frozen object per process, built once at the entry point from a TOML file and the environment.

Each party derives its own class and names its prefix:

    class DealerSettings(PartySettings):
        model_config = settings_config("CRYPTO_PROVIDER_")
        listen: Address
        credentials: Credentials

    settings = load_settings(DealerSettings, Path("crypto-provider.toml"))

A variable of the environment (`CRYPTO_PROVIDER_LISTEN`, `CRYPTO_PROVIDER_CREDENTIALS__KEY` for a nested key) replaces
the file's value. Unknown keys are refused in both. Relative paths count from the folder of the configuration file.
"""

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, core_schema
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from contract.base import Name, Strict
from contract.errors import ConfigurationError, SettingsWrong
from contract.fault_words import describe_fault
from contract.identity import Credentials
from contract.ticket import TICKET_SECONDS, TicketSeconds
from plumbing.listening import is_host_name, with_port

MAX_CONFIGURATION_BYTES = 1 << 20
GIBIBYTE = 1 << 30
MOST_FAULTS = 20
"""That are told at once."""
NESTED = "__"
"""Stands between the names of nested keys in an environment variable."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens: host and TCP port, written `127.0.0.1:8443` or `[::1]:8443`. Port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return with_port(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`. Raises ValueError, so that pydantic names the key."""
        host, separator, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if (
            not separator
            or not is_host_name(host)
            or not (port.isascii() and port.isdigit())
            or (":" in host) != bracketed
        ):
            raise ValueError("write an address as host:port, say 127.0.0.1:8443 or [::1]:8443")
        if int(port[:6]) > 65535:
            raise ValueError("a port is a number from 0 to 65535")
        return cls(host=host, port=int(port))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read from text; written back as text."""
        from_text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema(max_length=300))
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), from_text],
            mode="left_to_right",
            serialization=core_schema.to_string_ser_schema(),
            custom_error_type="address",
            custom_error_message="write an address as host:port with a port up to 65535, say 127.0.0.1:8443",
        )


def _check_url(text: str, *, schemes: tuple[str, ...]) -> str:
    parts = urlsplit(text)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"write a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not is_host_name(parts.hostname):
        raise ValueError("its host can be no host's name: correct it")
    if parts.username is not None or parts.password is not None:
        raise ValueError("leave user names and passwords out of a URL; they end up in logs")
    if parts.query or parts.fragment:
        raise ValueError("leave the query and fragment out of the URL")
    _ = parts.port  # raises ValueError if it is not a port
    return text.rstrip("/")


WebSocketUrl = Annotated[str, AfterValidator(partial(_check_url, schemes=("ws", "wss")))]
"""Where a party is reached: ws:// or wss://, host, port, path. No trailing slash."""

HttpUrl = Annotated[str, AfterValidator(partial(_check_url, schemes=("http", "https")))]
"""Where the front end is reached: http:// or https://. No trailing slash."""


def settings_config(env_prefix: str) -> SettingsConfigDict:
    """The `model_config` of a party's settings: its prefix in the environment, frozen, unknown keys refused."""
    return SettingsConfigDict(
        env_prefix=env_prefix,
        env_nested_delimiter=NESTED,
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # an input may be a secret
    )


class PartySettings(BaseSettings):
    """Base of every party's settings. Constructed directly it reads its arguments only; see `load_settings`."""

    model_config = settings_config("")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: nothing is read behind the caller's back. `load_settings` adds file and environment."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


class _Environment(EnvSettingsSource):
    """The environment, with addresses written as text and not as JSON."""

    def field_is_complex(self, field: FieldInfo) -> bool:
        return field.annotation is not Address and super().field_is_complex(field)


S = TypeVar("S", bound=PartySettings)


def load_settings(cls: type[S], path: Path | None) -> S:
    """Build the process's settings from a TOML file (None: no file) and the environment, which goes first.

    Raises ConfigurationError naming each file or variable, the key and what to do; values are never repeated.
    """
    written = _read_toml(path) if path is not None else {}
    unknown = _list_unknown_variables(cls)
    try:
        environment = _Environment(cls)()
    except SettingsError as error:
        raise ConfigurationError(
            f"environment: {error}; write lists and tables as JSON, or name one key with '{NESTED}'"
        ) from None
    try:
        settings = cls(**_merged(written, environment))
        if unknown:
            raise SettingsWrong(*unknown)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        # A misspelt key is both missing and unknown: the second says more.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        lines = dict.fromkeys(_explain(cls, path, fault, environment) for fault in faults[:MOST_FAULTS])
        raise SettingsWrong(*unknown, *lines) from None
    folder = path.resolve().parent if path is not None else Path.cwd()
    return settings.model_copy(
        update={name: _resolved(getattr(settings, name), folder) for name in type(settings).model_fields}
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIGURATION_BYTES + 1)
        if len(content) > MAX_CONFIGURATION_BYTES:
            raise ConfigurationError(f"{path}: larger than {MAX_CONFIGURATION_BYTES} bytes; give a configuration file")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check the path of --config") from error
    except ValueError:
        # The parser's words may repeat a part of the file, and the file may hold a secret.
        raise ConfigurationError(f"{path}: is not a TOML file; correct it (https://toml.io)") from None


def _list_unknown_variables(cls: type[PartySettings]) -> list[str]:
    """A line for each variable of the environment that has the prefix of these settings and names none of them."""
    prefix = str(cls.model_config.get("env_prefix", "")).upper()
    if not prefix:
        return []
    known = {prefix + name.upper() for name in cls.model_fields}
    names = [name for name in sorted(os.environ) if name.upper().startswith(prefix)]
    unknown = [name for name in names if prefix + name.upper().removeprefix(prefix).partition(NESTED)[0] not in known]
    *first, last = [f"environment variable {name} names no setting; unset it" for name in unknown] or [""]
    return [*first, f"{last}, or use one of {', '.join(sorted(known))}"] if unknown else []


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both_tables else value
    return merged


def _explain(cls: type[PartySettings], path: Path | None, fault: ErrorDetails, environment: Mapping[str, Any]) -> str:
    location = fault["loc"]
    key, words = ".".join(str(part) for part in location) or "settings", _in_words(fault)
    prefix = str(cls.model_config.get("env_prefix", "")).upper()
    names = [str(part).upper() for part in takewhile(lambda part: isinstance(part, str), location)]
    variable = prefix + NESTED.join(names)
    if fault["type"] != "missing" and location and location[0] in environment:
        return f"environment variable {prefix}{names[0]}: {key}: {words}; correct it"
    if path is None:
        return f"{key}: {words}; set {variable} or give a file with --config"
    if fault["type"] == "missing":
        return f"{path}: {key}: {words}; add it to the file or set {variable}"
    return f"{path}: {key}: {words}; correct the file"


def _in_words(fault: ErrorDetails) -> str:
    """What is wrong with a setting, for somebody who writes settings and no programs."""
    if fault["type"] == "missing":
        return "not set"
    if fault["type"] == "extra_forbidden":
        return "no such setting"
    return describe_fault(fault)


def _resolved(value: Any, folder: Path) -> Any:
    """The same value with every relative path in it made absolute."""
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return value.model_copy(update={name: _resolved(getattr(value, name), folder) for name in fields})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _resolved(getattr(value, field.name), folder) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_resolved(item, folder) for item in value)
    if isinstance(value, dict):
        return {key: _resolved(item, folder) for key, item in value.items()}
    return value


class _Table(Strict):
    """A table within a party's settings; its values may be secrets."""

    model_config = ConfigDict(hide_input_in_errors=True)


class FrontEnd(_Table):
    """How a party reaches the inference service, and as whom."""

    url: HttpUrl
    api_key: SecretStr
    """This party's key, as `inference-service account add` printed it once."""
    authority: Path | None = None
    """Certificate of the authority, if the front end serves TLS with its party certificate."""
    revocations: Path | None = None
    """The authority's list of revoked certificates, for the front end's; None: none is checked."""


class AtRest(_Table):
    """The key under which a party seals what it keeps on disk: 32 bytes, in hexadecimal or base64."""

    key_file: Path | None = None
    """File that holds it, readable by this account only; best not on the disk that it protects."""
    key: SecretStr | None = None
    """The key itself: in the environment, if a file will not do."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key_file is None) == (self.key is None):
            raise ValueError("give key_file or key, one of the two")
        return self


class Peer(_Table):
    """A party that is pinned: only this organisation is spoken to, whatever a ticket or the catalog says."""

    organisation: Name
    url: WebSocketUrl | None = None
    """Where it listens; None: where the catalog says. The certificate decides who it is, not the address."""


class Waiting(_Table):
    """Deadlines in seconds. Every wait has one."""

    connect: Annotated[float, Field(gt=0, le=600)] = 10.0
    step: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """For the peer's next message, what it computes before included."""
    material: Annotated[float, Field(gt=0, le=24 * 3600)] = 300.0
    """For all of a session's correlated randomness."""


class PlanLimits(_Table):
    """Each party's own choice: it refuses a plan that costs more, before any work. For one image, under each engine.

    The defaults leave room for about three times a DenseNet-121 at 224 x 224.
    """

    offline_bytes: Annotated[int, Field(gt=0)] = 8 * GIBIBYTE
    """Correlated randomness that is dealt, and what the data owner sends before the image is used."""
    online_bytes: Annotated[int, Field(gt=0)] = 32 * GIBIBYTE
    """Between data owner and model owner, both ways."""
    one_way_trips: Annotated[int, Field(gt=0)] = 5_000
    """Messages that wait for one another on the way from the image to the result."""
    elements: Annotated[int, Field(gt=0)] = 1 << 30
    """Of all values that are computed, those within an operation included."""
    processor_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Estimated to the safe side, for all parties together, on one core."""
    memory_bytes: Annotated[int, Field(gt=0)] = 16 * GIBIBYTE
    """Estimated to the safe side, of the party that holds most at once."""


class SessionPartySettings(PartySettings):
    """What every party of a session chooses: the data owner, the model owner and the crypto provider."""

    data_folder: Path
    credentials: Credentials
    at_rest: AtRest
    """The key that seals what lies in `data_folder`."""
    ticket_keys: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Public keys of the inference service, pinned."""
    ticket_seconds: TicketSeconds = TICKET_SECONDS
    """The longest that a ticket may live, from its issue to its expiry, to be accepted here."""
    inference_service: FrontEnd
    waiting: Waiting = Waiting()
    plan_limits: PlanLimits = PlanLimits()
    """What one image may cost by its plan; a plan that costs more is refused before any work."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation."""

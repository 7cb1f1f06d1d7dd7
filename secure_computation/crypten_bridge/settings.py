"""CrypTen's configuration, `crypten.cfg`, for one session: what a script changes ends with its session.

CrypTen keeps one configuration for the process and changes it while its own functions run, so that two sessions at once
would compute with each other's. Settings that would weaken a session are refused by name (`refusals.SETTINGS`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from contract.errors import ConfigurationError
from secure_computation.crypten_bridge.refusals import SETTINGS, refuse, refuse_call
from secure_computation.crypten_bridge.session import current_script, find_script


class SessionSettings:
    """Stands in for CrypTen's `cfg`: `cfg.functions.max_method`, `cfg["functions.max_method"]`, `temp_override`."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        """`defaults`: CrypTen's own values by dotted name; they hold outside of a script's session."""
        object.__setattr__(self, "_defaults", dict(defaults))

    def __getattr__(self, group: str) -> "_Group":
        """Settings whose names begin with `group`."""
        if not any(name.startswith(f"{group}.") for name in self._all()):
            raise AttributeError(f"CrypTen has no settings '{group}'")
        return _Group(self, group)

    def __setattr__(self, name: str, value: object) -> None:
        """Change a setting by its whole name."""
        self[name] = value

    def __getitem__(self, name: str) -> Any:
        """The value of a setting, or a group of settings."""
        values = self._all()
        return values[name] if name in values else getattr(self, name)

    def __setitem__(self, name: str, value: object) -> None:
        """Change a setting in this session."""
        script = current_script()
        if name not in self._all():
            raise ConfigurationError(f"CrypTen has no setting '{name[:100]}'; check its name")
        if name in SETTINGS and value != self._all()[name]:
            refuse(f"cfg.{name}", SETTINGS[name])
        script.settings = {**script.settings, name: value}

    @contextmanager
    def temp_override(self, override_dict: Mapping[str, Any]) -> Iterator[None]:
        """Change settings in this block."""
        script = current_script()
        before = script.settings
        try:
            for name, value in override_dict.items():
                self[name] = value
            yield
        finally:
            script.settings = before

    def load_config(self, config_file: object) -> None:
        """Refuse: a file would set everything at once."""
        del config_file
        refuse_call("crypten.cfg.load_config")

    def _all(self) -> dict[str, Any]:
        script = find_script()
        defaults: dict[str, Any] = object.__getattribute__(self, "_defaults")
        return defaults if script is None else {**defaults, **script.settings}


class _Group:
    """Settings below one name."""

    def __init__(self, settings: SessionSettings, name: str) -> None:
        object.__setattr__(self, "_settings", settings)
        object.__setattr__(self, "_name", name)

    def __getattr__(self, name: str) -> Any:
        return self._settings[f"{self._name}.{name}"]

    def __setattr__(self, name: str, value: object) -> None:
        self._settings[f"{self._name}.{name}"] = value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat

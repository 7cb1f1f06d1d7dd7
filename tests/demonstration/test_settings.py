"""The settings that the demonstration writes, by itself, in TOML."""

import tomllib

from demonstration.deployment import format_toml


def test_settings_are_read_back_as_they_were_written() -> None:
    settings: dict[str, object] = {
        "texts": ['a "quoted" \\ word', "Universitätsklinikum 🏥", ""],
        "numbers": {"whole": 1_000_000, "part": 0.25, "negative": -3},
        "yes": True,
        "peers": [{"organisation": "north-lab", "urls": []}, {}],
    }
    written = "".join(f"{name} = {format_toml(value)}\n" for name, value in settings.items())
    assert tomllib.loads(written) == settings

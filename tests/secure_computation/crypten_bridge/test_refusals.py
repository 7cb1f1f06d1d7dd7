"""What a session refuses: by its name, with its reason, and as `docs/crypten.md` says."""

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.errors import ConfigurationError
from secure_computation.crypten_bridge import refusals
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.scripts import run_in_process

PAGE = (Path(__file__).parents[3] / "docs" / "crypten.md").read_text()
CPU = torch.device("cpu")
CALLS: dict[str, Callable[[Any], object]] = {
    "crypten.init(config_file=...)": lambda crypten: crypten.init(config_file="a.yaml"),
    "crypten.cfg.load_config": lambda crypten: crypten.cfg.load_config("a.yaml"),
    "crypten.load_from_party(encrypted=True)": lambda crypten: crypten.load_from_party(io.BytesIO(), encrypted=True),
    "crypten.load_from_party(model_class=...)": lambda crypten: crypten.load_from_party(io.BytesIO(), model_class=int),
    "a reduction that is neither SUM nor BXOR": lambda crypten: crypten.communicator.get().all_reduce(
        torch.ones(1), op=torch.distributed.ReduceOp.MAX
    ),
    "a device that is not the CPU": lambda crypten: crypten.generators["prev"]["cuda"],
    "a ring that is not of 64 bits": lambda crypten: crypten.common.rng.generate_random_ring_element((1,), ring_size=8),
}
OTHERS = {"mpc.provider": "TTP", "mpc.protocol": "replicated"}


def errors_of(attempts: Mapping[str, Callable[..., object]]) -> dict[str, str]:
    """What rank 0 is told for each attempt; an attempt that is not refused is left out."""

    def script(crypten: Any) -> dict[str, str]:
        told = {}
        for name, attempt in attempts.items():
            try:
                attempt(crypten)
            except ConfigurationError as error:
                told[name] = str(error)
        return told

    return run_in_process(script)[0]


def call(path: str) -> Callable[[Any], object]:
    return lambda crypten: functools.reduce(getattr, path.split(".")[1:], crypten)()


def test_every_function_of_the_table_is_refused_with_its_reason() -> None:
    told = errors_of({name: call(name) for name in refusals.FUNCTIONS})
    assert told == {
        name: f"{name} is not offered in a session: {reason}" for name, reason in refusals.FUNCTIONS.items()
    }


def test_every_attribute_of_the_communicator_and_of_a_generator_is_refused_with_its_reason() -> None:
    told = errors_of(
        {name: lambda crypten, name=name: getattr(crypten.communicator.get(), name) for name in refusals.COMMUNICATOR}
        | {
            name: lambda crypten, name=name: getattr(crypten.generators["local"][CPU], name)
            for name in refusals.GENERATORS
        }
    )
    expected = {**refusals.COMMUNICATOR, **refusals.GENERATORS}
    assert told.keys() == expected.keys()
    assert all(told[name].endswith(f"{name} is not offered in a session: {expected[name]}") for name in expected)


def test_every_call_of_the_table_is_refused_with_its_reason() -> None:
    assert CALLS.keys() == refusals.CALLS.keys()
    told = errors_of(CALLS)
    assert told == {name: f"{name} is not offered in a session: {reason}" for name, reason in refusals.CALLS.items()}


def test_every_setting_of_the_table_keeps_its_default() -> None:
    def script(crypten: Any) -> list[str]:
        told = []
        for name in refusals.SETTINGS:
            crypten.cfg[name] = crypten.cfg[name]
            for change in (
                lambda name=name: crypten.cfg.__setitem__(name, OTHERS.get(name, True)),
                lambda name=name: setattr(
                    getattr(crypten.cfg, name.split(".")[0]), name.split(".")[1], OTHERS.get(name, True)
                ),
                lambda name=name: crypten.cfg.temp_override({name: OTHERS.get(name, True)}).__enter__(),
            ):
                with pytest.raises(ConfigurationError) as refused:
                    change()
                told.append(f"{name}: {refused.value}")
        return told

    told = run_in_process(script)[0]
    assert len(told) == 3 * len(refusals.SETTINGS)
    assert all(line.endswith(refusals.SETTINGS[line.split(":")[0]]) for line in told)


def test_a_setting_that_does_not_exist_is_named() -> None:
    def script(crypten: Any) -> None:
        crypten.cfg.functions.exp_iteration = 3

    with pytest.raises(ConfigurationError, match="exp_iteration"):
        run_in_process(script)


def test_the_page_shows_what_is_refused_and_nothing_else() -> None:
    rows = {line.strip("| ") for line in PAGE[PAGE.index("## What is refused") :].splitlines() if line.startswith("|")}
    table = (
        dict(refusals.FUNCTIONS)
        | {f"crypten.communicator.get().{name}": why for name, why in refusals.COMMUNICATOR.items()}
        | {f"crypten.generators[...][...].{name}": why for name, why in refusals.GENERATORS.items()}
        | dict(refusals.CALLS)
        | dict(refusals.SETTINGS)
    )
    expected = {
        f"`{name}` | {why}" if " " not in name.split("(")[0] else f"{name} | {why}" for name, why in table.items()
    }
    headings = {row for row in rows if row.startswith(("a script calls", "setting", "---"))}
    assert rows - headings == expected


def test_nothing_in_crypten_still_makes_its_own_tuples_or_seeds() -> None:
    crypten = load_crypten()
    for name in ("TrustedFirstParty", "TrustedThirdParty"):
        with pytest.raises(ConfigurationError, match=name):
            getattr(crypten.mpc.provider, name)()

"""Which role is for what, where nobody says: data sets of all kinds use the same few words."""

from collections.abc import Sequence
from typing import Final

from contract.errors import ConfigurationError
from federated_learning.data_source.examples import DataSource

TRAINING: Final = ("train", "training")
VALIDATION: Final = ("validation", "val", "valid")
TEST: Final = ("test", "testing")


def training_roles(source: DataSource, named: Sequence[str] | None) -> tuple[str, ...]:
    """The roles to train on: those named, else `train`. Raises ConfigurationError where there is neither."""
    return tuple(named) if named else (_found(source, TRAINING, option="--training-role"),)


def validation_role(source: DataSource, named: str | None) -> str:
    """The role to choose and to calibrate on: the one named, else `validation`. Raises ConfigurationError."""
    return named or _found(source, VALIDATION, option="--validation-role")


def test_roles(source: DataSource, named: Sequence[str] | None) -> tuple[str, ...]:
    """The roles to report on besides: those named, else `test` where there is one."""
    return tuple(named) if named else tuple(role for role in TEST if role in source.roles)[:1]


def _found(source: DataSource, usual: Sequence[str], *, option: str) -> str:
    for role in usual:
        if role in source.roles:
            return role
    raise ConfigurationError(
        f"the data has no role '{usual[0]}'; its roles are: {', '.join(source.roles)}. Name one of them with {option}, "
        "or give the images roles: a column of the table, or folders above those of the classes"
    )

"""What a trial on one machine promises of a patient is what its hospitals will draw noise for."""

import csv
from pathlib import Path

import pytest

from federated_learning.federated_commands import _add_privacy
from federated_learning.loopback.run import Loopback, smoke_settings
from federated_learning.loopback.sites import TRAINING
from federated_learning.privacy.accounting import compute_epsilon

DELTA = 1e-2
HOSPITALS = 3


def plan(folder: Path, *, each_alone: bool) -> Loopback:
    asked = f"epsilon=3,delta={DELTA},each_alone={each_alone}"
    settings = _add_privacy(smoke_settings(HOSPITALS), asked, own_training=False, epochs=2)
    return Loopback(settings, folder, hospitals=HOSPITALS, images=None)


@pytest.mark.parametrize("each_alone", [False, True])
def test_whoever_epsilon_was_asked_for_learns_no_more(tmp_path: Path, each_alone: bool) -> None:
    federation = plan(tmp_path, each_alone=each_alone)
    assert federation.privacy is not None
    mechanism, rounds = federation._plan_mechanism(federation.privacy)
    view = mechanism.insider(rounds) if each_alone else mechanism.outsider(rounds)
    assert 2.98 < compute_epsilon([view], delta=DELTA) <= 3


def test_the_patients_of_the_plan_are_those_that_hospitals_train_on(tmp_path: Path) -> None:
    federation = plan(tmp_path, each_alone=False)
    found = 0
    for site in federation.sites:
        with (tmp_path / f"{site.name}.csv").open(newline="") as file:
            found += len({row["patient"] for row in csv.DictReader(file) if row["role"] == TRAINING})
    assert federation.privacy is not None
    assert federation.privacy.patients == found

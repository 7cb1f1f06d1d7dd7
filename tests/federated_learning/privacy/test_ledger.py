import json
from pathlib import Path

import pytest

from contract.errors import ConfigurationError, Refused
from federated_learning.privacy.accounting import Releases, compute_epsilon
from federated_learning.privacy.ledger import Charge, Ledger, Vector
from federated_learning.privacy.settings import PrivacyLimits
from federated_learning.privacy.words import describe_ledger


def make_charge(name: str, *, noise: float = 10.0, rounds: int = 10) -> Charge:
    outsider = Releases(noise_multiplier=noise, sampling_rate=1, rounds=rounds)
    insider = Releases(noise_multiplier=noise / 3**0.5, sampling_rate=1, rounds=rounds)
    return Charge(training=f"{name:a>64}", run=f"run-{name}", outsider=outsider, insider=insider)


def make_limits(
    folder: Path, *, outsider: float = 3.0, insider: float = 6.0, population: str = "chest"
) -> PrivacyLimits:
    return PrivacyLimits(
        ledger=folder / "ledger", population=population, outsider_epsilon=outsider, insider_epsilon=insider
    )


def open_ledger(folder: Path, *, state: str = "state", outsider: float = 3.0, insider: float = 6.0) -> Ledger:
    return Ledger(make_limits(folder, outsider=outsider, insider=insider), state=folder / state)


def lines(folder: Path) -> list[bytes]:
    return (folder / "ledger" / "chest.jsonl").read_bytes().splitlines(keepends=True)


def write(folder: Path, content: list[bytes]) -> None:
    (folder / "ledger" / "chest.jsonl").write_bytes(b"".join(content))


def test_a_run_is_charged_once_and_for_good(tmp_path: Path) -> None:
    charge = make_charge("1")
    for _ in range(2):
        open_ledger(tmp_path).charge(charge)
    ledger = open_ledger(tmp_path)
    assert ledger.charges() == (charge,)
    assert ledger.spent().outsider == compute_epsilon([charge.outsider], delta=1e-5)
    assert ledger.spent().insider == compute_epsilon([charge.insider], delta=1e-5)


def test_runs_are_charged_until_the_limit_and_no_further(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for number in range(5):
        ledger.charge(make_charge(str(number)))
    with pytest.raises(Refused, match=r"outsiders.*limit is 3") as refused:
        ledger.charge(make_charge("5"))
    assert ledger.spent().outsider <= 3 < ledger.spent(beside=make_charge("5")).outsider
    assert "run-5" in str(refused.value)
    assert len(ledger.charges()) == 5
    ledger.charge(make_charge("c", noise=1000))  # there is still room for little


def test_what_insiders_learn_has_a_limit_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="other hospitals together"):
        open_ledger(tmp_path, outsider=100, insider=2).charge(make_charge("1"))


def test_populations_are_counted_apart(tmp_path: Path) -> None:
    open_ledger(tmp_path).charge(make_charge("1"))
    other = Ledger(make_limits(tmp_path, population="hand"), state=tmp_path / "state")
    assert other.charges() == ()


def test_a_run_with_other_noise_under_the_same_name_is_refused(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.charge(make_charge("1"))
    with pytest.raises(Refused, match="other noise or rounds"):
        ledger.charge(make_charge("1", noise=20))


def test_one_vector_for_each_round(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.charge(make_charge("1"))
    vector = Vector(training=make_charge("1").training, round=4, digest="b" * 64)
    for _ in range(2):
        ledger.note(vector)
    assert len(ledger.read()) == 2
    with pytest.raises(Refused, match="with other noise"):
        ledger.note(vector.model_copy(update={"digest": "c" * 64}))
    ledger.note(vector.model_copy(update={"digest": "c" * 64, "round": 5}))


@pytest.mark.parametrize(("name", "number"), [("1", 11), ("2", 1)])
def test_a_vector_that_was_not_paid_for_is_refused(tmp_path: Path, name: str, number: int) -> None:
    ledger = open_ledger(tmp_path)
    ledger.charge(make_charge("1", rounds=10))
    with pytest.raises(Refused, match="was not charged"):
        ledger.note(Vector(training=make_charge(name).training, round=number, digest="b" * 64))


@pytest.mark.parametrize("line", [0, 1, 2])
def test_any_entry_that_is_altered_removed_or_moved_is_found(tmp_path: Path, line: int) -> None:
    for number in range(3):
        open_ledger(tmp_path).charge(make_charge(str(number)))
    kept = lines(tmp_path)
    fields = json.loads(kept[line])
    fields["charge"]["outsider"]["noise_multiplier"] = 99.0
    altered = [*kept[:line], json.dumps(fields).encode() + b"\n", *kept[line + 1 :]]
    swapped = [kept[1], kept[0], kept[2]]
    for wrong in (altered, kept[:line] + kept[line + 1 :], swapped, [*kept, kept[line]], [b"rubbish\n", *kept]):
        write(tmp_path, wrong)
        with pytest.raises(ConfigurationError, match="put the right file back"):
            open_ledger(tmp_path).charges()
    write(tmp_path, kept)
    assert len(open_ledger(tmp_path).charges()) == 3


def test_a_cut_end_is_found_by_what_the_state_folder_remembers(tmp_path: Path) -> None:
    for number in range(3):
        open_ledger(tmp_path).charge(make_charge(str(number)))
    kept = lines(tmp_path)
    for shorter in (kept[:2], []):
        write(tmp_path, shorter)
        with pytest.raises(ConfigurationError, match="lacks entry 3"):
            open_ledger(tmp_path).charges()


def test_a_ledger_that_is_altered_while_it_is_open_is_found(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for number in range(3):
        ledger.charge(make_charge(str(number)))
    kept = lines(tmp_path)
    for wrong in ([kept[1], *kept[1:]], kept[:2], [*kept, kept[2]]):
        write(tmp_path, wrong)
        with pytest.raises(ConfigurationError, match="put the right file back"):
            ledger.charges()
    write(tmp_path, kept)
    open_ledger(tmp_path).charge(make_charge("3"))  # another process adds an entry
    assert len(ledger.charges()) == 4


def test_a_new_state_folder_does_not_forget_what_was_spent(tmp_path: Path) -> None:
    open_ledger(tmp_path).charge(make_charge("1"))
    assert len(open_ledger(tmp_path, state="another").charges()) == 1


def test_a_line_that_a_power_cut_left_without_its_end_was_never_written(tmp_path: Path) -> None:
    open_ledger(tmp_path).charge(make_charge("1"))
    kept = lines(tmp_path)
    write(tmp_path, [*kept, kept[0][:40]])
    ledger = open_ledger(tmp_path)
    ledger.charge(make_charge("2"))
    assert [one.run for one in open_ledger(tmp_path).charges()] == ["run-1", "run-2"]


def test_the_ledger_is_for_its_owner_only(tmp_path: Path) -> None:
    open_ledger(tmp_path).charge(make_charge("1"))
    assert (tmp_path / "ledger" / "chest.jsonl").stat().st_mode & 0o077 == 0


def test_what_is_spent_and_left_is_said_in_words(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.charge(make_charge("1"))
    said = "\n".join(describe_ledger(ledger, planned=make_charge("2")))
    assert "whoever has a model: epsilon 1.20 of 3 is spent, 1.80 is left" in said
    assert "run 'run-1', 10 rounds: by itself 1.20 and" in said
    assert "run 'run-2' of these settings is not charged yet" in said
    assert "which is allowed" in said
    assert "which is refused" in "\n".join(describe_ledger(ledger, planned=make_charge("3", noise=1)))

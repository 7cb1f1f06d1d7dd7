"""What the doctor finds before it asks anybody."""

from pathlib import Path

from data_owner.checks import Verdict
from data_owner.doctor import examine_all


def test_the_doctor_lists_every_setting_that_is_missing_or_wrong(tmp_path: Path) -> None:
    settings = tmp_path / "data-owner.toml"
    settings.write_text('data_folder = "data"\nthreads = 0\ncolour = "red"\n[at_rest]\n')
    checks = list(examine_all(settings))
    assert {(check.name, check.verdict) for check in checks} == {("settings", Verdict.BAD)}
    assert [check.found.removeprefix(f"{settings}: ").partition(":")[0] for check in checks] == [
        *("colour", "credentials", "at_rest", "ticket_keys", "inference_service"),
        *("threads", "model_owners", "crypto_providers"),
    ]
    assert checks[0].found == f"{settings}: colour: no such setting; correct the file"

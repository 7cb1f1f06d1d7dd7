"""The API's data types: examples are valid, hostile values are not."""

import pytest
from pydantic import BaseModel, ValidationError

from contract import api
from contract.api import Failure, PartyAddress, PhaseSeconds, SentBytes, SessionEvent, SessionRequest
from contract.errors import (
    ComputationFailed,
    ConfigurationError,
    EncryptedInferenceError,
    ImageError,
    MaterialSpent,
    ModelFileError,
    NeedsConfirmation,
    PeerReported,
    PeerUnreachable,
)

MODELS = [value for value in vars(api).values() if isinstance(value, type) and issubclass(value, BaseModel)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_examples_are_what_they_exemplify(model: type[BaseModel]) -> None:
    extra = model.model_config.get("json_schema_extra")
    examples = extra.get("examples", []) if isinstance(extra, dict) else []
    assert isinstance(examples, list)
    for example in examples:
        model.model_validate(example)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_type_is_frozen_and_refuses_unknown_keys(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"


@pytest.mark.parametrize(
    "address",
    [
        "http://north-lab.example",
        "ws://user:secret@north-lab.example",
        "ws://",
        "ws://host/path?query=1",
        "ws://host/path#part",
        "ws://host/\n",
        "wss://" + "a" * 2000,
    ],
)
def test_an_address_is_a_plain_websocket_url(address: str) -> None:
    with pytest.raises(ValidationError):
        PartyAddress(organisation="north-lab", address=address)


@pytest.mark.parametrize("address", ["ws://127.0.0.1:8443", "ws://[::1]:80/session", "wss://a-b.example/v1/session"])
def test_an_address_may_have_port_and_path(address: str) -> None:
    assert PartyAddress(organisation="north-lab", address=address).address == address


@pytest.mark.parametrize("message", ["", "two\nlines", "escape \x1b[31m", "line\u2028separator", "x" * 501])
def test_a_failure_is_one_printable_line(message: str) -> None:
    with pytest.raises(ValidationError):
        Failure(code="transport", message=message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PeerUnreachable("no connection to the dealer: check that it runs"), "no connection to the dealer: check that"),
        (PeerReported("two\nlines and \x1b[31m colour\u2028"), "two lines and [31m colour"),
        (ComputationFailed("x" * 600), "x" * 500),
        (PeerReported(""), "of its own (peer-reported)"),
    ],
)
def test_a_failure_of_the_protocol_is_reported_in_its_words(error: EncryptedInferenceError, message: str) -> None:
    failure = Failure.of(error)
    assert failure.code == error.code
    assert message in failure.message


@pytest.mark.parametrize("kind", [ImageError, ModelFileError, NeedsConfirmation, ConfigurationError, MaterialSpent])
def test_words_that_may_name_a_file_stay_at_home(kind: type[EncryptedInferenceError]) -> None:
    failure = Failure.of(kind("/archive/DOE_JANE.dcm: truncated"))
    assert failure.code == kind.code
    assert "DOE" not in failure.message


@pytest.mark.parametrize("code", ["", "Upper", "with space", "1st", "a" * 41])
def test_a_failure_has_a_plain_code(code: str) -> None:
    with pytest.raises(ValidationError):
        Failure(code=code, message="it broke: try again")


def test_a_reason_goes_with_a_failure_and_only_with_it() -> None:
    failure = {"failure": {"code": "transport", "message": "the link broke: try again"}}
    SessionEvent.model_validate({"event": "fail", "report": failure})
    for wrong in ({"event": "fail"}, {"event": "fail", "report": {}}, {"event": "complete", "report": failure}):
        with pytest.raises(ValidationError, match=r"report\.failure"):
            SessionEvent.model_validate(wrong)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_seconds_are_finite(seconds: float) -> None:
    with pytest.raises(ValidationError):
        PhaseSeconds(offline=seconds, online=0)


@pytest.mark.parametrize("count", [-1, 2**53, 1.5])
def test_byte_counts_are_whole_and_bounded(count: float) -> None:
    with pytest.raises(ValidationError):
        SentBytes.model_validate({"data_owner": count, "model_owner": 0, "crypto_provider": 0})


def test_a_session_request_has_no_room_for_data() -> None:
    with pytest.raises(ValidationError):
        SessionRequest.model_validate({"model": "resnet", "engine": "crypten", "image": "AAAA"})

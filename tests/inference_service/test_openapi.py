"""Requests drawn from the front end's own OpenAPI document, that fit it and that do not, as every kind of account.

An answer is one that the document declares, in the form that it declares, and never an error of the server's own.
"""

from typing import Any, TypeAlias

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contract.api import ModelRegistration
from tests.inference_service.conftest import FrontEnd, Keys

WHO = (None, "clinician", "stranger", "model_owner", "operator", "crypto_provider")
"""Whose key a request carries; None: nobody's."""
EXAMPLES = 15
Operation: TypeAlias = APIOperation[Any, Any, Any, Any]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def operations(front_end: FrontEnd, registered: ModelRegistration) -> list[Operation]:
    """Every operation of the document, of a front end with a model in service."""
    assert registered
    schema = schemathesis.openapi.from_asgi("/openapi.json", front_end.app)
    found = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    assert len(found) >= 12
    return found


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_every_answer_keeps_to_the_document(operations: list[Operation], keys: Keys, mode: GenerationMode) -> None:
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not [*operation.iter_parameters(), *operation.body]:
            continue  # nothing in such a request could be wrong
        answered = _ask(operation, keys, mode)
        assert answered, f"nothing was drawn for {operation.label}"


def _ask(operation: Operation, keys: Keys, mode: GenerationMode) -> list[int]:
    statuses: list[int] = []

    @settings(max_examples=EXAMPLES, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), who=st.sampled_from(WHO))
    def ask(case: Case[Any], who: str | None) -> None:
        headers = {} if who is None else {"Authorization": f"Bearer {getattr(keys, who)}"}
        answer = case.call(headers=headers)
        assert answer.status_code < 500, f"{operation.label}: {answer.status_code}"
        case.validate_response(answer, checks=CHECKS)
        statuses.append(answer.status_code)

    ask()
    return statuses

"""The OpenAPI description: as committed, and true of every answer that generated requests get."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bastion.api.routes import describe, describe_as_text
from tests.unit.api_house import UID, ApiHouse, serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
WRITE = "BASTION_WRITE_OPENAPI"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 12  # of each operation, as described and otherwise


async def test_the_document_is_what_the_application_gives(tmp_path: Path) -> None:
    """docs/openapi.json is the description that /openapi.json gives."""
    async with serving(tmp_path) as house:
        given_ = describe_as_text(house.api)
        async with house.admin() as http:
            assert (await http.get("/openapi.json")).json() == json.loads(given_)
    if os.environ.get(WRITE) == "1":
        DOCUMENT.write_text(given_, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == given_, f"{WRITE}=1 .venv/bin/pytest {__file__} writes it anew"


def operations(house: ApiHouse) -> Iterator[APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_dict(describe(house.api))
    for result in schema.get_all_operations():
        if isinstance(result, Err):
            raise result.err()
        yield result.ok()


def hold(house: ApiHouse, case: Case[Any], headers: dict[str, str]) -> int:
    """Send the request and hold the answer against the description; return its status."""
    answer = case.call(base_url=f"http://{house.address[0]}:{house.address[1]}", headers=headers, timeout=30)
    case.validate_response(answer, checks=CHECKS)
    return answer.status_code


def generate(house: ApiHouse, headers: dict[str, str]) -> set[str]:
    """Send generated requests to every operation, right ones and wrong ones; return the operations' names."""
    seen = set()
    for operation in operations(house):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            def answers_as_described(case: Case[Any]) -> None:
                hold(house, case, headers)

            answers_as_described()
        seen.add(operation.label)
    return seen


@pytest.mark.parametrize("user", [None, "alice"])
async def test_generated_requests_get_documented_answers(tmp_path: Path, user: str | None) -> None:
    """No request gets a 5xx or an answer that is not described, be it of an administrator's or of a user's token."""
    scopes = ["admin"] if user is None else ["sessions:read", "sessions:write", "keys:issue"]
    async with serving(tmp_path) as house:
        seen = await asyncio.to_thread(generate, house, house.token(*scopes, user=user))
    assert len(seen) == sum(len(path) for path in describe(house.api)["paths"].values())


async def test_good_requests_get_documented_answers(tmp_path: Path) -> None:
    """What succeeds is described as well: every operation that needs nothing prepared but a live session."""
    async with serving(tmp_path) as house, house.live():
        headers = house.token("admin")

        def succeed() -> set[str]:
            done = set()
            for operation in operations(house):
                if operation.method != "get" or "watch" in operation.path or "/api/3" in operation.path:
                    continue
                given_uid = {"uid": UID} if "{uid}" in operation.path else {}
                if "transcripts/" not in operation.path:
                    assert hold(house, operation.Case(path_parameters=given_uid), headers) == 200, operation.label
                    done.add(operation.label)
            return done

        done = await asyncio.to_thread(succeed)
    assert {"GET /api/sessions", "GET /api/sessions/{uid}", "GET /api/ledger", "GET /metrics"} <= done

"""The API's description: valid, complete, and true; fuzzed with schemathesis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from mooring_api.rest.app import ROUTES
from mooring_api.rest.openapi import Description
from mooring_api.rest.problems import PROBLEMS
from tests.conftest import RunningService

PAGES = {"/", "/docs", "/console/{name:[a-zA-Z0-9._/-]+}"}


def describe() -> dict[str, Any]:
    return Description(ROUTES).document


def test_the_description_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(describe()).validate()


def test_only_pages_are_not_described() -> None:
    assert {route.path for route in ROUTES} - set(describe()["paths"]) == PAGES


def test_every_problem_type_but_faults_of_our_own_belongs_to_some_operation() -> None:
    used = {kind.name for route in ROUTES if route.summary for kind in route.all_problems}
    assert {kind.name for kind in PROBLEMS} - used == {
        "internal", "not-found", "method-not-allowed", "headers-too-large",
    }  # fmt: skip
    for route in ROUTES:
        assert set(route.problems) <= {kind.name for kind in PROBLEMS}, route.path


def test_problems_stand_by_status_once_and_each_says_when() -> None:
    assert [kind.status for kind in PROBLEMS] == sorted(kind.status for kind in PROBLEMS)
    assert len({kind.name for kind in PROBLEMS}) == len(PROBLEMS)
    for kind in PROBLEMS:
        assert kind.title and kind.when.endswith("."), kind.name
        assert kind.later or "Retry-After" not in kind.headers, (
            f"{kind.name}: a key would keep an answer that says later"
        )


async def test_it_is_served_without_a_token_and_so_is_the_page(shared: RunningService) -> None:
    async with shared.client.get("/openapi.json", headers={"Authorization": ""}) as response:
        assert json.loads(await response.text()) == json.loads(json.dumps(describe()))
    async with shared.client.get("/docs", headers={"Authorization": ""}) as response:
        text = await response.text()
        assert response.status == 200
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for path in describe()["paths"]:
        assert path in text


@pytest.mark.timeout(600)
def test_schemathesis_finds_no_server_error_and_no_undescribed_answer(module_service: RunningService) -> None:
    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{module_service.url}/openapi.json",
            "--header", f"Authorization: Bearer {module_service.token}",
            # A 500 is described nowhere, so status_code_conformance finds it.
            "--checks", "status_code_conformance,content_type_conformance,response_schema_conformance",
            "--exclude-path-regex", "events$", "--phases", "examples,fuzzing", "--max-examples", "20",
            "--request-timeout", "60", "--no-color", "--generation-database", "none",
        ],
        capture_output=True, text=True, timeout=590, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_answers_that_carry_a_header_say_so() -> None:
    for path, row in describe()["paths"].items():
        for method, operation in row.items():
            answers = operation["responses"]
            keyed = any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
            for status, answer in answers.items():
                named = set(answer.get("headers", ()))
                assert ("WWW-Authenticate" in named) is (status == "401"), (method, path, status)
                assert ("Retry-After" in named) is (status in ("429", "503", "507")), (method, path, status)
                assert ("Idempotency-Replayed" in named) is (keyed and status < "300"), (method, path, status)
                changes = method != "get" and path.startswith(("/v1/connections", "/v1/workers"))
                assert ("Mooring-Committed" in named) is (changes and status < "300"), (method, path, status)

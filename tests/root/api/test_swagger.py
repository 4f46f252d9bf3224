"""Requests generated from docker's own description of its API (1.41), and the answers compared with it.

The same requests each time: one right and one wrong for each path and method that is served. ``make test-api`` has
WHERRY_EXAMPLES of each, of what is refused too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
import yaml
from docker.transport import UnixHTTPAdapter
from hypothesis import strategies
from schemathesis.specs.openapi.checks import response_schema_conformance
from tests.patience import PATIENCE
from tests.root.harness import REPOSITORY, Supervisor

from wherry.api import refusals

SWAGGER = REPOSITORY / "build/docker-api.yaml"
schemathesis.serializer.alias("application/x-tar", "application/octet-stream")
EXAMPLES = int(os.environ.get("WHERRY_EXAMPLES", "1"))
REFUSED = {**dict.fromkeys(refusals.NOT_THERE, 501), **dict.fromkeys(refusals.NO_SWARM, 503)}
URL = "http://wherry"
HELD_BACK = {"follow": False, "stream": False, "until": "1", "t": 0, "condition": "not-running"}
"""What else would have an answer wait for something that does not come."""
pytestmark = [pytest.mark.root, pytest.mark.skipif(not SWAGGER.exists(), reason="no swagger: make setup-test")]


@pytest.fixture
def session(supervisor: Supervisor) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.mount(URL, UnixHTTPAdapter(f"http+unix://{supervisor.socket}", timeout=PATIENCE))
        yield session


@pytest.mark.timeout(300 + 60 * EXAMPLES)
def test_answers_to_generated_requests(supervisor: Supervisor, rootfs: Path, session: requests.Session) -> None:
    schema = schemathesis.openapi.from_dict(described())
    wrong: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if EXAMPLES == 1 and place(operation) in REFUSED:
            continue  # tests/unit/api/test_refusals.py asks for each of these
        if operation.path.startswith(("/containers", "/system", "/images")):
            populate(supervisor, rootfs)
        for mode in schemathesis.GenerationMode:
            try:
                send(operation, mode, session)
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing can be wrong in a request without parameters
            except (Exception, BaseExceptionGroup) as error:  # of all paths, not of the first only
                wrong.append(f"{place(operation)}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert "internal error" not in supervisor.log.read_text()


def described() -> Any:
    """docker's swagger, with what it gets wrong. An empty list or map of Go's may be null."""
    swagger = yaml.load(SWAGGER.read_text(), Loader=yaml.CSafeLoader)
    _allow_null(swagger["definitions"])
    _allow_null([[*each["schema"].values()] for each in _responses(swagger["paths"]) if "schema" in each])
    definitions = swagger["definitions"]
    log_drivers = definitions["HostConfig"]["allOf"][1]["properties"]["LogConfig"]["properties"]["Type"]
    log_drivers["enum"].append("local")
    definitions["RestartPolicy"]["properties"]["Name"]["enum"].append("no")  # said since 1.42
    containers = swagger["paths"]["/system/df"]["get"]["responses"][200]["schema"]["properties"]["Containers"]
    containers["items"] = definitions["ContainerSummary"]["items"]  # it is a list there, of lists
    return swagger


def _responses(paths: Any) -> Iterator[Any]:
    for operations in paths.values():
        for operation in operations.values():
            yield from operation["responses"].values()


def _allow_null(part: Any) -> None:
    if isinstance(part, dict):
        if part.get("type") in ("array", "object") and part.get("x-nullable") is not False:
            part["type"] = [part["type"], "null"]
        for inner in part.values():
            _allow_null(inner)
    elif isinstance(part, list):
        for inner in part:
            _allow_null(inner)


def populate(supervisor: Supervisor, rootfs: Path) -> None:
    """One container that runs, and one that has ended; some requests end, rename or remove them."""
    client = supervisor.client
    client.start("runs", str(rootfs), ["/bin/sleep", "1000"], replace=True)
    client.run("done", str(rootfs), ["/bin/echo", "x"], replace=True)


def send(operation: Any, mode: schemathesis.GenerationMode, session: requests.Session) -> None:
    names = ["done"] if operation.path.endswith(("/wait", "/attach")) else ["runs", "done", "nobody"]

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    @hypothesis.given(case=operation.as_strategy(mode), name=strategies.sampled_from(names))
    def one(case: schemathesis.Case, name: str) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE or operation.path.endswith(("/wait", "/attach")):
            case.path_parameters = dict.fromkeys(case.path_parameters or {}, name)
        parameters = {parameter.name for parameter in operation.query}
        held_back = {key: value for key, value in HELD_BACK.items() if key in parameters}
        case.query = {**(case.query or {}), **held_back}
        response = case.call(base_url=URL + "/v1.41", session=session, timeout=PATIENCE)
        check(operation, case, response)

    one()


def place(operation: Any) -> str:
    return f"{operation.method.upper()} {operation.path}"


def check(operation: Any, case: schemathesis.Case, response: Any) -> None:
    status = response.status_code
    about = f"{case.as_curl_command()}: {status} {response.content[:300]!r}"
    assert status < 500 or status == REFUSED.get(place(operation)), about
    if status >= 400 and operation.method != "head":
        assert response.json()["message"], about
    if status < 300 and operation.path != "/events":
        case.validate_response(response, checks=[response_schema_conformance])

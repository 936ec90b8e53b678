"""The HTTP API: typed answers, typed errors, and a socket that only its mode opens."""

import asyncio
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from bastion.api import create_api, serve_api
from bastion.config import SessionsSettings
from bastion.errors import ConfigurationError, RuntimeUnreachable, SessionEnded
from bastion.model import Identity, Name, Request, Target
from bastion.sessions import LiveSession, Sessions

UID = "0123456789abcdef"


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(SessionsSettings(), "here")


@asynccontextmanager
async def live(sessions: Sessions) -> AsyncIterator[LiveSession]:
    identity = Identity("alice", "SHA256:x", "192.0.2.1")
    request = Request(UID, Name("web", stack="mystack"), "exec", "sleep 9")
    target = Target("docker", "mystack", "web", "c0ffee", "mystack-web-1")
    async with sessions.open(identity, request, target) as session:
        yield session


@asynccontextmanager
async def client(api: FastAPI, path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with serve_api(api, path), httpx.AsyncClient(transport=transport, base_url="http://bastion") as http:
        yield http


async def test_a_session_is_listed_shown_and_ended(sessions: Sessions, tmp_path: Path) -> None:
    """The three routes give the Session's own fields, and the end reaches the session with its reason."""
    async with live(sessions) as session, client(create_api(sessions), tmp_path / "api.sock") as http:
        listed = (await http.get("/api/sessions")).json()["sessions"]
        assert [one["uid"] for one in listed] == [UID]
        eight = ("title", "service_name", "namespace", "command", "deployment_name", "pod_name", "container_name")
        assert {"uid", *eight} <= set(listed[0])
        assert (await http.get(f"/api/sessions/{UID}")).json() == listed[0]

        async def work() -> None:
            with session.interruptible():
                await asyncio.sleep(60)

        working = asyncio.create_task(work())
        assert (await http.delete(f"/api/sessions/{UID}", params={"reason": "deploying"})).status_code == 202
        with pytest.raises(SessionEnded, match="deploying"):
            await working


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        (f"GET /api/sessions/{UID}", 404, "no-such-session"),
        (f"DELETE /api/sessions/{UID}", 404, "no-such-session"),
        ("GET /api/sessions/" + "x" * 65, 422, "invalid"),
        ("GET /api/sessions/%1b%5b2J", 422, "invalid"),
        ("GET /api/sessions/..%2f..%2fetc", 404, "not-found"),
        (f"DELETE /api/sessions/{UID}?reason=%1b%5b2J", 422, "invalid"),
        (f"DELETE /api/sessions/{UID}?reason=" + "x" * 201, 422, "invalid"),
        (f"DELETE /api/sessions/{UID}?reason=%20", 422, "invalid"),
        ("POST /api/sessions", 405, "method-not-allowed"),
        ("GET /nowhere", 404, "not-found"),
        ("GET /docs", 404, "not-found"),
    ],
)
async def test_every_error_has_the_same_shape(
    sessions: Sessions, tmp_path: Path, request_line: str, status: int, code: str
) -> None:
    """Whatever is wrong, the answer is error, hint and code, in lower case without a full stop."""
    async with client(create_api(sessions), tmp_path / "api.sock") as http:
        answer = await http.request(*request_line.split())
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "hint", "code"}
    assert answer.json()["code"] == code
    assert answer.json()["error"][0].islower()
    assert answer.text.isprintable()


async def test_health_readiness_and_metrics(sessions: Sessions, tmp_path: Path) -> None:
    """The process answers at once; readiness says why it is not; the metrics count the live sessions."""
    engine_up = False

    async def ready() -> None:
        if not engine_up:
            raise RuntimeUnreachable("the engine does not answer", "start it")

    async with live(sessions), client(create_api(sessions, ready=ready), tmp_path / "api.sock") as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "unreachable")
        engine_up = True
        assert (await http.get("/readyz")).status_code == 200
        metrics = await http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "bastion_sessions_active 1.0" in metrics.text


async def test_the_description_names_every_route_and_the_error(sessions: Sessions, tmp_path: Path) -> None:
    """/openapi.json describes what there is, errors included."""
    async with client(create_api(sessions), tmp_path / "api.sock") as http:
        described = (await http.get("/openapi.json")).json()
    expected = {"/api/sessions", "/api/sessions/{uid}", "/healthz", "/readyz", "/metrics"}
    assert set(described["paths"]) == expected
    assert set(described["components"]["schemas"]["Problem"]["required"]) == {"error", "hint", "code"}
    assert {"4XX", "5XX"} <= set(described["paths"]["/api/sessions/{uid}"]["delete"]["responses"])


async def test_an_unknown_exception_is_an_internal_error(sessions: Sessions, tmp_path: Path) -> None:
    """What nobody foresaw is told as internal error, and nothing of it."""

    async def ready() -> None:
        raise ZeroDivisionError("CANARY")

    async with client(create_api(sessions, ready=ready), tmp_path / "api.sock") as http:
        answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "CANARY" not in answer.text


async def test_the_socket_is_for_owner_and_group_and_goes_with_the_server(sessions: Sessions, tmp_path: Path) -> None:
    """While it serves, the socket has mode 0660, whatever the umask; afterwards it is gone."""
    path = tmp_path / "run" / "api.sock"
    before = os.umask(0)
    try:
        async with serve_api(create_api(sessions), path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(before)
    assert not path.exists()


async def test_a_dead_servers_socket_is_replaced(sessions: Sessions, tmp_path: Path) -> None:
    """A socket that nobody listens on any more is no hindrance."""
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with client(create_api(sessions), path) as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_a_living_servers_socket_is_left_alone(sessions: Sessions, tmp_path: Path) -> None:
    """A second server is refused, and the first one goes on."""
    path = tmp_path / "api.sock"
    async with client(create_api(sessions), path) as http:
        with pytest.raises(ConfigurationError, match="another server answers"):
            async with serve_api(create_api(sessions), path):
                pytest.fail("the second server started")
        assert (await http.get("/healthz")).status_code == 200


async def test_what_is_no_socket_is_never_removed(sessions: Sessions, tmp_path: Path) -> None:
    """A file in the socket's place stops the start and stays."""
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is no socket"):
        async with serve_api(create_api(sessions), path):
            pytest.fail("the server started")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["no/such/folder/api.sock", "x" * 120])
async def test_a_socket_that_cannot_be_made_is_explained(sessions: Sessions, tmp_path: Path, name: str) -> None:
    """A missing folder or too long a path is a configuration error that names the path."""
    with pytest.raises(ConfigurationError, match="api socket"):
        async with serve_api(create_api(sessions), tmp_path / name):
            pytest.fail("the server started")


async def test_signals_stay_with_the_server_around_it(sessions: Sessions, tmp_path: Path) -> None:
    """The API takes no signal handler away."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serve_api(create_api(sessions), tmp_path / "api.sock"):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

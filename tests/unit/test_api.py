"""The HTTP API by its unix socket: typed answers and typed errors, for whoever the socket's mode lets in."""

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bastion.api.listening import unix_listener
from bastion.errors import ConfigurationError, SessionEnded
from bastion.model import Name, Request
from tests.unit.api_house import UID, ApiHouse, serving
from tests.unit.ssh.house import WEB


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ApiHouse]:
    async with serving(tmp_path) as made:
        yield made


async def test_a_session_is_listed_shown_and_ended(house: ApiHouse) -> None:
    """The three routes give the Session's own fields, and the end reaches the session with its reason."""
    async with house.live() as session, house.admin() as http:
        listed = (await http.get("/api/sessions")).json()
        assert listed["total"] == 1
        assert [one["uid"] for one in listed["sessions"]] == [UID]
        eight = ("title", "service_name", "namespace", "command", "deployment_name", "pod_name", "container_name")
        assert {"uid", *eight} <= set(listed["sessions"][0])
        assert (await http.get(f"/api/sessions/{UID}")).json() == listed["sessions"][0]

        async def work() -> None:
            with session.interruptible():
                await asyncio.sleep(60)

        working = asyncio.create_task(work())
        assert (await http.delete(f"/api/sessions/{UID}", params={"reason": "deploying"})).status_code == 202
        with pytest.raises(SessionEnded, match="deploying"):
            await working
    assert '"event":"end asked"' in house.ledger()


async def test_sessions_are_filtered_and_given_in_pages(house: ApiHouse) -> None:
    """Each filter leaves what fits it, a page has as many as asked for, and what has ended is there when asked for."""
    async with house.live("a" * 16), house.live("b" * 16, "bob"), house.admin() as http:

        async def uids(**query: str | int) -> list[str]:
            answer = (await http.get("/api/sessions", params=query)).json()
            return [one["uid"][0] for one in answer["sessions"]]

        assert await uids() == ["a", "b"]
        assert await uids(user="bob") == ["b"]
        assert await uids(stack="other") == []
        assert await uids(service="web", stack="mystack") == ["a", "b"]
        assert await uids(state="active") == []
        assert await uids(page=2, per_page=1) == ["b"]
        assert await uids(since="2100-01-01T00:00:00Z") == []
        async with house.live("c" * 16):
            pass
        assert await uids(state="terminated") == ["c"]
        assert await uids(live="false") == ["c", "b", "a"]
        assert (await http.get(f"/api/sessions/{'c' * 16}")).json()["state"] == "terminated"


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        (f"GET /api/sessions/{UID}", 404, "no-such-session"),
        (f"DELETE /api/sessions/{UID}", 404, "no-such-session"),
        (f"GET /api/sessions/{UID}/watch", 404, "no-such-session"),
        ("GET /api/sessions/" + "x" * 65, 422, "invalid"),
        ("GET /api/sessions/%1b%5b2J", 422, "invalid"),
        ("GET /api/sessions/..%2f..%2fetc", 404, "not-found"),
        ("GET /api/sessions?since=2026-01-01T00:00:00", 422, "invalid"),
        ("GET /api/sessions?page=0", 422, "invalid"),
        (f"DELETE /api/sessions/{UID}?reason=%1b%5b2J", 422, "invalid"),
        (f"DELETE /api/sessions/{UID}?reason=" + "x" * 201, 422, "invalid"),
        (f"DELETE /api/sessions/{UID}?reason=%20", 422, "invalid"),
        ("POST /api/sessions", 405, "method-not-allowed"),
        ("POST /api/keys", 422, "invalid"),
        ("DELETE /api/keys", 422, "invalid"),
        (f"GET /api/transcripts/{UID}", 404, "transcript"),
        ("GET /nowhere", 404, "not-found"),
        ("GET /docs", 404, "not-found"),
    ],
)
async def test_every_error_has_the_same_shape(house: ApiHouse, request_line: str, status: int, code: str) -> None:
    """Whatever is wrong, the answer is error, hint and code, in lower case without a full stop."""
    async with house.admin() as http:
        answer = await http.request(*request_line.split())
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "hint", "code"}
    assert answer.json()["code"] == code
    assert answer.json()["error"][0].islower()
    assert answer.text.isprintable()


async def test_health_readiness_and_metrics(house: ApiHouse) -> None:
    """The process answers at once; readiness says why it is not; the metrics count the live sessions."""
    house.house.containers.answers = False
    async with house.live(), house.admin() as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "unreachable")
        house.house.containers.answers = True
        assert (await http.get("/readyz")).status_code == 200
        metrics = await http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "bastion_sessions_active 1.0" in metrics.text


async def test_stacks_are_those_that_run(house: ApiHouse) -> None:
    """Each stack is listed with its services."""
    async with house.admin() as http:
        assert (await http.get("/api/stacks")).json() == {"stacks": [{"name": "mystack", "services": ["web"]}]}


async def test_an_unknown_exception_is_an_internal_error(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is told as internal error, and nothing of it."""

    async def find(_stack: str, _service: str, _container: str | None = None) -> list[object]:
        raise ZeroDivisionError("CANARY")

    monkeypatch.setattr(house.house.containers, "ping", find)
    async with house.admin() as http:
        answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "CANARY" not in answer.text


async def test_transcripts_are_given_as_they_are_encrypted(house: ApiHouse) -> None:
    """The list joins the ledger's facts, the file is the one on the disk, and that it was given is in the ledger."""
    async with house.live() as session:
        request = Request(UID, Name("web", stack="mystack"), "exec", "true")
        async with house.house.transcripts.open(session.session, request, WEB, on_failure=session.end):
            pass
    async with house.admin() as http:
        listed = (await http.get("/api/transcripts", params={"user": "alice"})).json()
        assert [one["uid"] for one in listed["transcripts"]] == [UID]
        assert listed["transcripts"][0]["stack"] == "mystack"
        assert (await http.get("/api/transcripts", params={"user": "bob"})).json()["total"] == 0
        given = await http.get(f"/api/transcripts/{UID}")
        assert given.content.startswith(b"age-encryption.org/v1\n")
        file = next(house.house.transcripts.ledger.path.parent.rglob(f"{UID}.cast.age"))
        assert given.content == file.read_bytes()
        page = (await http.get("/api/ledger", params={"uid": UID})).json()
        assert {"opened", "transcript given"} <= {entry["event"] for entry in page["entries"]}
        assert all(entry["signature"] for entry in page["entries"])
        rest = (await http.get("/api/ledger", params={"after": page["last"]})).json()
        assert rest == {"entries": [], "last": page["last"]}


async def test_a_key_is_issued_once_listed_and_revoked(house: ApiHouse) -> None:
    """The private half leaves with the answer alone, the key works as any other, and each change is in the ledger."""
    async with house.admin() as http:
        issued = await http.post("/api/keys", json={"user": "alice", "stack": "mystack", "days": 1})
        assert issued.status_code == 201
        assert issued.headers["cache-control"] == "no-store"
        key = issued.json()
        assert "OPENSSH PRIVATE KEY" in key["private_key"]
        listed = (await http.get("/api/keys", params={"user": "alice"})).json()["keys"]
        assert {"fingerprint": key["fingerprint"], "stack": "mystack", "state": "good"}.items() <= listed[-1].items()
        secret = key["private_key"].splitlines()[2]
        assert not [path for path in house.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
        gone = await http.delete("/api/keys", params={"fingerprint": key["fingerprint"]})
        assert gone.json() == {"revoked": [key["fingerprint"]]}
        refused = await http.post("/api/keys", json={"user": "mallory", "stack": "mystack"})
        assert (refused.status_code, refused.json()["code"]) == (403, "refused")
    lines = {line["event"]: line for line in map(json.loads, house.ledger().splitlines())}
    assert {"seconds": 86400, "address": "unix"}.items() <= lines["key issued"].items()
    assert lines["key revoked"]["address"] == "unix"


async def test_the_socket_is_for_owner_and_group_and_goes_with_the_server(tmp_path: Path) -> None:
    """While it serves, the socket has mode 0660, whatever the umask; afterwards it is gone."""
    path = tmp_path / "run" / "api.sock"
    before = os.umask(0)
    try:
        with unix_listener(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(before)
    assert not path.exists()


async def test_a_dead_servers_socket_is_replaced(tmp_path: Path) -> None:
    """A socket that nobody listens on any more is no hindrance."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "api.sock"))
    async with serving(tmp_path) as house, house.admin() as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_a_living_servers_socket_is_left_alone(house: ApiHouse) -> None:
    """A second server is refused, and the first one goes on."""
    with pytest.raises(ConfigurationError, match="another server answers"), unix_listener(house.socket):
        pytest.fail("the second server listens")
    async with house.admin() as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    """A file in the socket's place stops the start and stays."""
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is no socket"), unix_listener(path):
        pytest.fail("the server listens")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["no/such/folder/api.sock", "x" * 120])
async def test_a_socket_that_cannot_be_made_is_explained(tmp_path: Path, name: str) -> None:
    """A missing folder or too long a path is a configuration error that names the path."""
    with pytest.raises(ConfigurationError, match="api socket"), unix_listener(tmp_path / name):
        pytest.fail("the server listens")


async def test_signals_stay_with_the_server_around_it(tmp_path: Path) -> None:
    """The API takes no signal handler away."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving(tmp_path):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

"""Cloud 66's routes: its published client's calls as raw HTTP, answered as that client parses them."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bastion.config import GrantSettings
from bastion.model import Identity, Name, Request
from bastion.policy import Policy
from tests.unit.api_house import UID, ApiHouse, serving
from tests.unit.ssh.house import WEB

GO_SESSION = (
    "uid",
    "title",
    "service_name",
    "command",
    "namespace",
    "deployment_name",
    "pod_name",
    "container_name",
)  # all strings in Go; null leaves them empty


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ApiHouse]:
    async with serving(tmp_path) as made:
        yield made


class GoClient:
    """Sends what cloud66-oss/cloud66 sends (session.go, async.go, cloud66.go), byte by byte, and reads as it reads."""

    def __init__(self, house: ApiHouse, headers: dict[str, str]) -> None:
        self._house = house
        self._token = headers["Authorization"]

    async def do(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        reader, writer = await asyncio.open_connection(*self._house.address)
        lines = [
            f"{method} /api/3{path} HTTP/1.1",
            f"Host: {self._house.address[0]}:{self._house.address[1]}",
            "User-Agent: cloud66-go",
            "Accept: application/json",
            f"Authorization: {self._token}",
            "Request-Id: 5c0b0a4e-6a3e-4a51-9f47-5a9b0bb4a1a2",
            *(["Content-Type: application/json", f"Content-Length: {len(body)}"] if body is not None else []),
            "Accept-Encoding: gzip",
            "Connection: close",
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        assert b"content-encoding" not in head.lower()
        return int(head.split()[1]), json.loads(content)

    async def start_remote_session(self, stack: str, service: str) -> tuple[int, dict[str, Any]]:
        body = json.dumps({"service_name": service}, separators=(",", ":")).encode()
        return await self.do("POST", f"/stacks/{stack}/sessions.json", body)

    async def stack_async_action(self, number: int, stack: str) -> tuple[int, dict[str, Any]]:
        return await self.do("GET", f"/stacks/{stack}/actions/{number}.json")

    async def fetch_remote_session(self, stack: str, query: str) -> tuple[int, dict[str, Any]]:
        return await self.do("GET", f"/stacks/{stack}/sessions/fetch.json?page=1&{query}")


@pytest.fixture
def go(house: ApiHouse) -> GoClient:
    return GoClient(house, house.token("sessions:read", "sessions:write", user="alice"))


def unwrapped(answer: dict[str, Any]) -> dict[str, Any]:
    """Open the envelope as the client does: a raw response, an int and raw pagination."""
    assert set(answer) == {"response", "count", "pagination"}
    assert type(answer["count"]) is int
    assert all(value is None or type(value) is int for value in answer["pagination"].values())
    assert isinstance(answer["response"], dict)
    return answer["response"]


async def test_the_published_clients_three_calls(house: ApiHouse, go: GoClient) -> None:
    """A session is started, its action is finished at the first look, and what is fetched says where to connect."""
    status, answer = await go.start_remote_session("mystack", "web")
    assert status == 200
    started = unwrapped(answer)
    assert type(started["id"]) is int
    assert 0 < started["id"] < 2**53
    for field in ("user", "resource_type", "resource_id", "action", "started_via", "finished_message"):
        assert type(started[field]) is str
    assert datetime.fromisoformat(started["started_at"]).tzinfo is not None

    status, answer = await go.stack_async_action(started["id"], "mystack")
    action = unwrapped(answer)
    assert (status, action["finished_success"]) == (200, True)
    assert datetime.fromisoformat(action["finished_at"]) >= datetime.fromisoformat(action["started_at"])

    status, answer = await go.fetch_remote_session("mystack", "service_name=web")
    session = unwrapped(answer)
    assert status == 200
    assert all(session[field] is None or type(session[field]) is str for field in GO_SESSION)
    assert (session["uid"], session["state"], session["user"]) == (started["resource_id"], "provisioning", "alice")
    host, port = house.house.address
    assert session["ssh"] == f"ssh -p {port} web@mystack@{host}"
    assert '"event":"reserved"' in house.ledger()


async def test_connecting_takes_the_place_over(house: ApiHouse, go: GoClient) -> None:
    """The session that its user opens then is found by the id of the started one, in its place."""
    _, answer = await go.start_remote_session("mystack", "web")
    reserved = unwrapped(answer)["resource_id"]
    house.house.sessions.limits = house.house.sessions.limits.model_copy(update={"per_service": 1})
    connection = await house.house.connect()
    async with connection:
        process = await connection.create_process("cat")
        async with asyncio.timeout(20):
            while [one.state for one in house.house.sessions.list()] != ["active"]:
                await asyncio.sleep(0.02)
        _, answer = await go.fetch_remote_session("mystack", f"session_id={reserved}")
        session = unwrapped(answer)
        assert (session["state"], session["command"], session["reserved_as"]) == ("active", "cat", reserved)
        process.stdin.write_eof()
        await process.wait()


async def test_a_full_service_is_an_action_that_failed(house: ApiHouse, go: GoClient) -> None:
    """Where there is no place the action says so, as the client's wait expects it."""
    house.house.sessions.limits = house.house.sessions.limits.model_copy(update={"per_service": 1})
    async with house.live():
        status, answer = await go.start_remote_session("mystack", "web")
    action = unwrapped(answer)
    assert (status, action["finished_success"]) == (200, False)
    assert "1 is its limit" in action["finished_message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/stacks/other/sessions.json", 400, "no-such-target"),
        ("POST", "/stacks/mystack/sessions", 400, "no-such-target"),
        ("POST", "/stacks/-x/sessions", 400, "invalid"),
        ("GET", "/stacks/mystack/actions/1.json", 400, "no-such-session"),
        ("GET", "/stacks/mystack/actions/x.json", 400, "invalid"),
        ("GET", "/stacks/mystack/sessions/fetch.json", 400, "no-such-session"),
        ("GET", "/stacks/mystack/sessions/fetch?service_name=web", 400, "no-such-session"),
        ("GET", f"/stacks/mystack/sessions/fetch.json?session_id={UID}", 400, "no-such-session"),
        ("GET", "/stacks/mystack/sessions/fetch.json?session_id=..", 400, "invalid"),
    ],
)
async def test_errors_are_in_the_clients_words(go: GoClient, method: str, path: str, status: int, code: str) -> None:
    """What its documentation calls an error is 400, with the three fields that the client reads."""
    answer = await go.do(method, path, b'{"service_name":"nosuch"}' if method == "POST" else None)
    assert answer[0] == status
    assert set(answer[1]) == {"error", "error_description", "details"}
    assert answer[1]["error"] == code
    assert answer[1]["error_description"] in answer[1]["details"]


async def test_who_may_not_is_refused_with_400(house: ApiHouse) -> None:
    """A user without a grant, and a hostile service name, get no look-up; a token is a user's here."""
    bob = GoClient(house, house.token("sessions:read", "sessions:write", user="bob"))
    before = house.house.containers.asked
    status, answer = await bob.start_remote_session("mystack", "web")
    assert (status, answer["error"]) == (400, "refused")
    assert "no grant lets bob" in answer["details"]
    alice = GoClient(house, house.token("sessions:write", user="alice"))
    for name in ("web@other", "a\x00b", "../x", "web'; --", "x" * 400):
        status, answer = await alice.start_remote_session("mystack", name)
        assert status == 400, name
    assert house.house.containers.asked == before
    nobody = GoClient(house, house.token("sessions:read", "sessions:write"))
    assert (await nobody.start_remote_session("mystack", "web"))[0] == 403
    assert (await GoClient(house, {"Authorization": "Bearer x"}).start_remote_session("mystack", "web"))[0] == 401


async def test_one_user_learns_nothing_of_anothers(house: ApiHouse, go: GoClient) -> None:
    """Another user's action and session are as unknown as none."""
    _, answer = await go.start_remote_session("mystack", "web")
    started = unwrapped(answer)
    bob = GoClient(house, house.token("sessions:read", user="bob"))
    assert (await bob.stack_async_action(started["id"], "mystack"))[0] == 400
    assert (await bob.fetch_remote_session("mystack", f"session_id={started['resource_id']}"))[0] == 400
    assert (await go.stack_async_action(started["id"], "other"))[0] == 400


async def test_an_engine_that_does_not_answer_is_an_action_that_failed(house: ApiHouse, go: GoClient) -> None:
    """The client's wait ends with the words, and no place is taken."""
    house.house.containers.answers = False
    _, answer = await go.start_remote_session("mystack", "web")
    action = unwrapped(answer)
    assert action["finished_success"] is False
    assert "does not answer" in action["finished_message"]
    assert house.house.sessions.list() == []
    request = Request(UID, Name("web", stack="mystack"), "shell")
    async with house.house.sessions.open(Identity("alice", "", ""), request, WEB) as session:
        assert session.session.reserved_as is None


async def test_a_session_is_fetched_by_the_name_it_was_started_by(go: GoClient) -> None:
    """A container's own name is one too: the service it leads to need not be known to the client."""
    _, answer = await go.start_remote_session("mystack", "web-1")
    started = unwrapped(answer)
    _, answer = await go.fetch_remote_session("mystack", "service_name=web-1")
    session = unwrapped(answer)
    assert (session["uid"], session["service_name"]) == (started["resource_id"], "web")


async def test_who_may_run_commands_only_may_start_a_session(house: ApiHouse, go: GoClient) -> None:
    """A grant for commands is enough; one for neither is not."""
    for allowed, status in (("exec", 200), ("forward", 400)):
        grant = GrantSettings.model_validate({"users": ["alice"], "stacks": ["*"], "allow": [allowed]})
        house.house.gateway.replace_rules(replace(house.house.gateway.rules, policy=Policy([grant])))
        assert (await go.start_remote_session("mystack", "web"))[0] == status

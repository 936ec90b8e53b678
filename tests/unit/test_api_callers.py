"""Who may do what by the API: each route's declared scope, tokens over TCP, and users' own tokens."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from bastion.api.callers import ADDRESSES_KEPT, MOST_FAILURES, Failures, GuardedRoute, need_of
from bastion.api.tokens import SCOPES
from tests.unit.api_house import UID, ApiHouse, serving

PUBLIC_PATHS = re.compile(r"\{[^}]+\}")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ApiHouse]:
    async with serving(tmp_path) as made:
        yield made


async def test_every_route_declares_what_it_needs(house: ApiHouse) -> None:
    """There is no route but guarded ones, and each of them names a scope, or any."""
    assert len(house.api.routes) >= 20
    for route in house.api.routes:
        assert isinstance(route, GuardedRoute)
        assert need_of(route) in {*SCOPES, "any"}, route.path


async def test_a_route_that_declares_nothing_is_nobodys(house: ApiHouse) -> None:
    """Forgetting the scope shuts a route, for administrators too."""

    async def forgotten() -> str:
        return "CANARY"

    house.api.get("/forgotten")(forgotten)
    async with house.admin() as http:
        answer = await http.get("/forgotten")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_every_route_is_shut_without_a_token_and_with_the_wrong_scope(house: ApiHouse) -> None:
    """The whole table: 401 without a token, 403 with every scope that is not the one, and else whatever it answers."""
    every = {scope: house.token(scope) for scope in SCOPES}
    routes = [route for route in house.api.routes if isinstance(route, APIRoute)]
    async with house.client() as http:
        for route in routes:
            path = PUBLIC_PATHS.sub("1", route.path)
            for method in sorted(route.methods or ()):
                body = b"{" if method == "POST" else None
                bare = await http.request(method, path, content=body)
                assert bare.status_code in {401, 429}, path
                for scope, headers in every.items():
                    status = (await http.request(method, path, headers=headers, content=body)).status_code
                    may = scope in {"admin", need_of(route)} or need_of(route) == "any"
                    of_a_user = scope == "sessions:write" and path.startswith("/api/3")
                    assert (status != 403) is may or of_a_user or scope == "admin", (path, scope)


async def test_a_bad_token_is_told_from_none_and_logged_without_itself(
    house: ApiHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are 401 with the challenge; nothing of what was sent as a token is logged."""
    async with house.client() as http:
        none = await http.get("/healthz")
        bad = await http.get("/healthz", headers={"Authorization": "Bearer bastion_CANARY"})
        basic = await http.get("/healthz", headers={"Authorization": "Basic Q0FOQVJZ"})
    assert [answer.status_code for answer in (none, bad, basic)] == [401, 401, 401]
    assert bad.headers["www-authenticate"] == "Bearer"
    assert none.json()["error"] != bad.json()["error"]
    logged = capsys.readouterr()
    assert "api refused" in logged.out + logged.err
    assert "CANARY" not in logged.out + logged.err


async def test_a_token_by_the_socket_counts_as_itself(house: ApiHouse) -> None:
    """Whoever shows a token on the unix socket is no administrator there, and a bad one is refused."""
    async with house.admin() as http:
        assert (await http.get("/api/ledger", headers=house.token("sessions:read"))).status_code == 403
        assert (await http.get("/api/ledger", headers={"Authorization": "Bearer x"})).status_code == 401
        assert (await http.get("/api/ledger")).status_code == 200


async def test_failures_are_limited_by_address_and_good_tokens_pass(house: ApiHouse) -> None:
    """After so many failures the answer is 429; a good token from the same address is still good."""
    good = house.token("sessions:read")
    async with house.client() as http:
        codes = [(await http.get("/healthz")).status_code for _ in range(MOST_FAILURES + 2)]
        assert codes == [401] * MOST_FAILURES + [429] * 2
        limited = await http.get("/healthz")
        assert limited.headers["retry-after"] == "60"
        assert (await http.get("/healthz", headers=good)).status_code == 200


def test_failures_are_counted_in_bounded_room() -> None:
    """A window ends, addresses of one /64 are one, and only so many addresses are kept."""
    present = 0.0
    failures = Failures(lambda: present)
    assert [failures.count("192.0.2.1"), failures.count("192.0.2.1"), failures.count("192.0.2.2")] == [1, 2, 1]
    assert [failures.count("2001:db8::1"), failures.count("2001:db8::2"), failures.count("2001:db8:0:1::1")] == [
        1,
        2,
        1,
    ]
    assert failures.count("::ffff:192.0.2.1") == 3
    present = 60.0
    assert failures.count("192.0.2.1") == 1
    for number in range(2 * ADDRESSES_KEPT):
        failures.count(f"host{number}")
    assert len(failures._windows) == ADDRESSES_KEPT  # noqa: SLF001 - how much it keeps


async def test_a_users_token_sees_and_ends_the_users_own_only(house: ApiHouse) -> None:
    """Others' sessions are not there for it: not listed, not shown, not ended."""
    headers = house.token("sessions:read", "sessions:write", user="alice")
    async with house.live(UID, "alice"), house.live("b" * 16, "bob"), house.client(headers) as http:
        assert [one["uid"] for one in (await http.get("/api/sessions")).json()["sessions"]] == [UID]
        assert (await http.get("/api/sessions", params={"user": "bob"})).json()["total"] == 0
        assert (await http.get("/api/sessions", params={"live": "false"})).json()["total"] == 1
        assert (await http.get(f"/api/sessions/{'b' * 16}")).status_code == 404
        assert (await http.delete(f"/api/sessions/{'b' * 16}")).status_code == 404
        assert (await http.delete(f"/api/sessions/{UID}")).status_code == 202


async def test_a_users_token_has_the_users_grants(house: ApiHouse) -> None:
    """The stacks listed are those the user may enter; keys are the user's own."""
    async with house.client(house.token("keys:issue", user="alice")) as http:
        assert (await http.get("/api/stacks")).json()["stacks"] == [{"name": "mystack", "services": ["web"]}]
        issued = await http.post("/api/keys", json={"stack": "mystack"})
        assert (issued.status_code, issued.json()["user"]) == (201, "alice")
        assert (await http.post("/api/keys", json={"stack": "mystack", "user": "bob"})).status_code == 403
        assert (await http.delete("/api/keys", params={"user": "bob"})).status_code == 403
    async with house.client(house.token("keys:issue", user="bob")) as http:
        assert (await http.get("/api/stacks")).json()["stacks"] == []
        assert (await http.get("/api/keys")).json()["keys"] == []
        theirs = {"fingerprint": issued.json()["fingerprint"]}
        assert (await http.delete("/api/keys", params=theirs)).status_code == 403
        assert (await http.post("/api/keys", json={"stack": "mystack"})).status_code == 403


def test_a_plain_route_would_be_noticed() -> None:
    """What the first test looks for is not what Starlette and FastAPI make by themselves."""
    assert not issubclass(Route, GuardedRoute)
    assert not issubclass(APIRoute, GuardedRoute)

"""The HTTP API of a running bastion, by address and token, beside the real ssh."""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.places import Place
from tests.e2e.server import Bastion, uid_of


class Caller:
    """Speaks to the API by TLS with one token, trusting the server's own certificate."""

    def __init__(self, server: Bastion, certificate: Path, *scopes: str, user: str | None = None) -> None:
        name = f"{user or 'any'}-{len(list(server.folder.glob('token-*')))}"
        words = [word for scope in scopes for word in ("--scope", scope)]
        made = server.cli("tokens", "issue", name, *words, *(["--user", user] if user else []))
        (server.folder / f"token-{name}").touch()
        self.name = name
        self.token = made.stdout.strip()
        self._base = f"https://{server.events('serving')[-1]['api'][0]}"
        self._tls = ssl.create_default_context(cafile=str(certificate))

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        request = urllib.request.Request(  # noqa: S310 - https, and ours
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:  # noqa: S310 - as above
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Give a certificate for loopback, beside its key."""
    path = tmp_path / "api.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(path), "-keyout", str(tmp_path / "api.key")),
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def server(place: Place, tmp_path: Path, certificate: Path) -> Iterator[Bastion]:
    """Give a running bastion whose API also listens on loopback, with TLS."""
    made = Bastion(tmp_path / "api", place.sections)
    text = made.config.read_text()
    socket = f'listen = "unix:{made.folder}/api.sock"'
    assert socket in text
    both = f'listen = ["unix:{made.folder}/api.sock", "127.0.0.1:0"]\ncertificate = "{certificate}"\n'
    made.config.write_text(text.replace(socket, f'{both}private_key = "{certificate.with_suffix(".key")}"'))
    made.start()
    yield made
    assert made.stop() == 0
    assert not made.events("internal error")


def test_a_platform_starts_a_session_and_its_user_connects(server: Bastion, certificate: Path) -> None:
    """Started by Cloud 66's call, the session is entered with the ssh line it carries, and found by its id."""
    alice = Caller(server, certificate, "sessions:read", "sessions:write", user="alice")
    status, answer = alice.ask("POST", "/api/3/stacks/mystack/sessions.json", {"service_name": "web"})
    action = answer["response"]
    assert (status, action["finished_success"]) == (200, True)
    status, answer = alice.ask("GET", f"/api/3/stacks/mystack/actions/{action['id']}.json")
    assert answer["response"]["finished_at"] is not None
    _, answer = alice.ask("GET", "/api/3/stacks/mystack/sessions/fetch.json?page=1&service_name=web")
    session = answer["response"]
    assert (session["uid"], session["state"]) == (action["resource_id"], "provisioning")
    assert session["ssh"] == f"ssh -p {server.port} web@mystack@127.0.0.1"

    assert server.ssh("echo", "entered").stdout == b"entered\n"
    uid = server.last_uid()
    _, answer = alice.ask("GET", f"/api/sessions/{action['resource_id']}")
    assert (answer["uid"], answer["state"], answer["exit_status"]) == (uid, "terminated", 0)
    assert answer["reserved_as"] == action["resource_id"]


def test_a_key_from_the_api_opens_a_shell_until_it_is_revoked(server: Bastion, certificate: Path) -> None:
    """The private half is what ssh takes; after DELETE it opens nothing."""
    issuer = Caller(server, certificate, "keys:issue")
    status, key = issuer.ask("POST", "/api/keys", {"user": "alice", "stack": "mystack"})
    assert status == 201
    private = server.folder / "mine.key"
    private.write_text(key["private_key"])
    private.chmod(0o600)
    until = time.monotonic() + 10  # the server reads the key home every two seconds
    while (entered := server.ssh("echo", "in", user="mine")).returncode == 255 and time.monotonic() < until:
        time.sleep(0.2)
    assert entered.stdout == b"in\n"
    status, answer = issuer.ask("DELETE", f"/api/keys?fingerprint={key['fingerprint'].replace('+', '%2B')}")
    assert (status, answer["revoked"]) == (200, [key["fingerprint"]])
    until = time.monotonic() + 10
    while server.ssh("true", user="mine").returncode != 255:
        assert time.monotonic() < until


def test_a_token_is_what_it_says_until_it_is_revoked(server: Bastion, certificate: Path) -> None:
    """Its scope bounds it; revoked by command line it is none at once; its name is in log and ledger, it is nowhere."""
    reader = Caller(server, certificate, "sessions:read")
    assert reader.ask("GET", "/api/sessions") == (200, {"sessions": [], "total": 0})
    assert reader.ask("GET", "/api/ledger")[0] == 403
    listed = json.loads(server.cli("tokens", "list", "--json").stdout)["tokens"]
    assert {"name": reader.name, "scopes": ["sessions:read"], "state": "good"}.items() <= listed[-1].items()
    assert "sha256" not in listed[-1]
    server.cli("tokens", "revoke", reader.name)
    status, problem = reader.ask("GET", "/api/sessions")
    assert (status, problem["code"]) == (401, "unauthenticated")
    refused = server.cli("tokens", "revoke", reader.name, check=False)
    assert (refused.returncode, "there is no token" in refused.stderr) == (1, True)
    for path in server.folder.rglob("*"):
        if path.is_file():
            assert reader.token.encode() not in path.read_bytes(), path
    events = [fact["caller"] for fact in server.events("api used")]
    assert reader.name in events
    ledger = [json.loads(line) for line in (server.transcripts / "ledger.jsonl").read_text().splitlines()]
    assert [one["event"] for one in ledger if one.get("name") == reader.name] == ["token issued", "token revoked"]


def test_an_auditor_fetches_transcripts_and_opens_them(server: Bastion, certificate: Path) -> None:
    """The file that the API gives is opened by stock age with the auditor's identity."""
    server.ssh("echo", "recorded")
    uid = server.last_uid()
    server.finished(uid)
    auditor = Caller(server, certificate, "audit:read")
    _, answer = auditor.ask("GET", "/api/transcripts")
    assert [(one["uid"], one["user"], one["state"]) for one in answer["transcripts"]] == [(uid, "alice", "complete")]
    fetched = subprocess.run(
        ["curl", "-sf", "--unix-socket", f"{server.folder}/api.sock", f"http://bastion/api/transcripts/{uid}"],
        capture_output=True,
        check=True,
    ).stdout
    opened = subprocess.run(
        ["age", "-d", "-i", str(server.auditor)], input=fetched, capture_output=True, check=True
    ).stdout
    text = subprocess.run(["zcat"], input=opened, capture_output=True, check=True).stdout
    assert b"recorded" in text
    _, page = auditor.ask("GET", f"/api/ledger?uid={uid}")
    assert "transcript given" in [entry["event"] for entry in page["entries"]]


def test_the_command_line_shows_what_has_ended(server: Bastion) -> None:
    """With --ended the list has the history, with its filters, and show knows a session that has ended."""
    server.ssh("exit", "3")
    uid = server.last_uid()
    assert json.loads(server.cli("sessions", "list", "--json").stdout)["sessions"] == []
    listed = json.loads(server.cli("sessions", "list", "--ended", "--user", "alice", "--json").stdout)
    assert [(one["uid"], one["exit_status"]) for one in listed["sessions"]] == [(uid, 3)]
    assert uid not in server.cli("sessions", "list", "--ended", "--user", "bob").stdout
    assert "terminated" in server.cli("sessions", "show", uid).stdout


def test_the_command_line_works_from_afar(server: Bastion, certificate: Path) -> None:
    """With an address, its certificate and a token the commands do over TLS what they do by the socket."""
    token = Caller(server, certificate, "sessions:read", "sessions:write").token
    address = server.events("serving")[-1]["api"][0]
    config = server.folder / "afar.toml"
    key = certificate.with_suffix(".key")
    config.write_text(f'[api]\nlisten = "{address}"\ncertificate = "{certificate}"\nprivate_key = "{key}"\n')
    shell = server.terminal()
    uid = uid_of(shell)
    there = ("--config", str(config))
    listed = server.cli("sessions", "list", "--json", *there, config=False, env={"BASTION_TOKEN": token})
    assert [one["uid"] for one in json.loads(listed.stdout)["sessions"]] == [uid]
    ended = ("sessions", "end", uid, "--reason", "from afar")
    server.cli(*ended, *there, config=False, env={"BASTION_TOKEN": token})
    shell.expect(b"from afar")
    shell.close()

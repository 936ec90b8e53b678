"""The API's listeners: TLS, limits before and in a request, and what they refuse to start with."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import bastion.api.connections
import bastion.api.limits
import bastion.api.server
from bastion.api.connections import MAX_WAITING, MAX_WAITING_PER_SOURCE
from bastion.api.limits import MOST_BYTES
from bastion.api.server import serve_api
from bastion.config import ApiSettings, SshSettings
from bastion.errors import ConfigurationError
from tests.unit.api_house import ApiHouse, serving
from tests.unit.ssh.house import running


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ApiHouse]:
    async with serving(tmp_path) as made:
        yield made


def certificate(folder: Path, name: str = "api") -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that vouches for itself; return it and its key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
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
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(paths[0]), "-keyout", str(paths[1])),
        ],
        check=True,
        capture_output=True,
    )
    return paths


async def shown(address: tuple[str, int]) -> str:
    """Return the certificate that the server shows, in PEM."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(*address, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return ssl.DER_cert_to_PEM_cert(der)


async def test_tls_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trusts the certificate and has a token is answered; a certificate that changes is shown from then on."""
    monkeypatch.setattr(bastion.api.server, "CERTIFICATE_CHECK_SECONDS", 0.05)
    pem, key = certificate(tmp_path)
    async with running(tmp_path, SshSettings(listen=("127.0.0.1:0",))) as inner:
        made = ApiHouse(inner, tmp_path)
        settings = ApiSettings(listen=("127.0.0.1:0",), certificate=pem, private_key=key)
        async with serve_api(made.api, settings) as addresses:
            trust = ssl.create_default_context(cafile=str(pem))
            base = f"https://127.0.0.1:{addresses[0][1]}"
            async with httpx.AsyncClient(base_url=base, verify=trust, trust_env=False) as http:
                assert (await http.get("/healthz")).status_code == 401
                assert (await http.get("/healthz", headers=made.token("sessions:read"))).status_code == 200
            assert await shown(addresses[0]) == pem.read_text()

            other, other_key = certificate(tmp_path, "other")
            pem.write_bytes(other.read_bytes())  # half of a pair changes nothing
            await asyncio.sleep(0.3)
            assert await shown(addresses[0]) != other.read_text()
            key.write_bytes(other_key.read_bytes())
            async with asyncio.timeout(20):
                while await shown(addresses[0]) != other.read_text():
                    await asyncio.sleep(0.05)


async def test_handshakes_that_do_not_come_are_limited_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many connections may wait for their handshake, and not long; then there is room again."""
    monkeypatch.setattr(bastion.api.connections, "MAX_WAITING", 4)
    monkeypatch.setattr(bastion.api.connections, "HANDSHAKE_SECONDS", 3)
    pem, key = certificate(tmp_path)
    async with running(tmp_path, SshSettings(listen=("127.0.0.1:0",))) as inner:
        made = ApiHouse(inner, tmp_path)
        settings = ApiSettings(listen=("127.0.0.1:0",), certificate=pem, private_key=key)
        async with serve_api(made.api, settings) as addresses:
            silent = [await asyncio.open_connection(*addresses[0]) for _ in range(4)]
            with pytest.raises(OSError):  # noqa: PT011 - however the system says it
                await shown(addresses[0])
            for reader, writer in silent:
                assert await asyncio.wait_for(reader.read(), 20) == b""
                writer.close()
            assert await shown(addresses[0]) == pem.read_text()


async def test_plain_text_to_a_tls_port_gets_nothing(tmp_path: Path) -> None:
    """A request without TLS is not answered."""
    pem, key = certificate(tmp_path)
    async with running(tmp_path, SshSettings(listen=("127.0.0.1:0",))) as inner:
        made = ApiHouse(inner, tmp_path)
        settings = ApiSettings(listen=("127.0.0.1:0",), certificate=pem, private_key=key)
        async with serve_api(made.api, settings) as addresses:
            reader, writer = await asyncio.open_connection(*addresses[0])
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in await asyncio.wait_for(reader.read(), 20)
            writer.close()


@pytest.mark.parametrize(
    ("certificate_", "private_key", "words"),
    [
        ("api.pem", None, "go together"),
        ("none.pem", "api.key", "no such file"),
        ("api.key", "api.key", "certificate"),
        ("api.pem", "other.key", "certificate"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_explained(
    house: ApiHouse, tmp_path: Path, certificate_: str, private_key: str | None, words: str
) -> None:
    """What is missing, is none, or is another's stops the start in words that name it."""
    certificate(tmp_path)
    certificate(tmp_path, "other")
    settings = ApiSettings(
        listen=("127.0.0.1:0",),
        certificate=tmp_path / certificate_,
        private_key=None if private_key is None else tmp_path / private_key,
    )
    with pytest.raises(ConfigurationError, match=words):
        async with serve_api(house.api, settings):
            pytest.fail("it serves")


async def test_an_address_that_is_taken_is_explained(house: ApiHouse) -> None:
    """The error names the address."""
    host, port = house.address
    with pytest.raises(ConfigurationError, match=f"listen {host}:{port}"):
        async with serve_api(house.api, ApiSettings(listen=(f"{host}:{port}",))):
            pytest.fail("it serves")


async def test_a_long_body_is_refused_whether_it_says_so_or_not(house: ApiHouse) -> None:
    """Over 64 KiB the answer is 413, by Content-Length at once and in chunks as soon as it is too long."""
    long = b"x" * (MOST_BYTES + 1)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(long), 4096):
            yield long[start : start + 4096]

    async with house.admin() as http:
        said = await http.post("/api/keys", content=long, headers={"Content-Type": "application/json"})
        silent = await http.post("/api/keys", content=chunks(), headers={"Content-Type": "application/json"})
    assert [(answer.status_code, answer.json()["code"]) for answer in (said, silent)] == [(413, "body-too-large")] * 2


async def test_a_body_that_does_not_come_is_not_waited_for(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time the answer is 408."""
    monkeypatch.setattr(bastion.api.limits, "BODY_SECONDS", 0.2)
    reader, writer = await asyncio.open_unix_connection(str(house.socket))
    writer.write(b"POST /api/keys HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408")
    writer.close()


@pytest.mark.parametrize("path", [b"/api/3/stacks/x/sessions", b"/api/3/nothing"], ids=["read", "not read"])
@pytest.mark.parametrize("body", [b"2\r\n{}\r\nzz\r\n", b"zz\r\n"], ids=["second chunk", "first chunk"])
async def test_a_body_in_broken_chunks_is_no_error(
    house: ApiHouse, path: bytes, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer is 400, whether the application reads the body already or not, and the log has no internal error."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_unix_connection(str(house.socket))
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 400")
    assert b"Traceback" not in await asyncio.wait_for(reader.read(), 20)
    writer.close()
    async with house.admin() as http:
        assert (await http.get("/healthz")).status_code == 200
    logged = capsys.readouterr()
    assert "internal error" not in logged.out + logged.err


async def test_headers_that_trickle_are_cut(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose request line never ends is closed, on the first request and on a later one."""
    monkeypatch.setattr(bastion.api.connections, "HEADER_SECONDS", 0.3)
    for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        reader, writer = await asyncio.open_unix_connection(str(house.socket))
        writer.write(first)
        if first:
            assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"}"), 20)
        async with asyncio.timeout(20):
            try:
                while not reader.at_eof():
                    writer.write(b"G")
                    await asyncio.wait_for(writer.drain(), 5)
                    await asyncio.sleep(0.05)
            except (ConnectionResetError, BrokenPipeError):
                pass
        writer.close()


async def test_long_headers_are_refused(house: ApiHouse) -> None:
    """Headers over 16 KiB are an error, and the next connection is served."""
    reader, writer = await asyncio.open_unix_connection(str(house.socket))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 4")
    writer.close()
    async with house.admin() as http:
        assert (await http.get("/healthz")).status_code == 200


async def refused(house: ApiHouse, source: str) -> None:
    """Expect that a connection from this address is closed without an answer."""
    reader, writer = await asyncio.open_connection(*house.address, local_addr=(source, 0))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 20)
    writer.close()


async def test_connections_are_limited_for_each_address(house: ApiHouse) -> None:
    """One address cannot hold all that a listener has: others are served meanwhile, and the unix socket."""
    held = [await asyncio.open_connection(*house.address) for _ in range(MAX_WAITING_PER_SOURCE)]
    await refused(house, "127.0.0.1")
    reader, writer = await asyncio.open_connection(*house.address, local_addr=("127.0.0.2", 0))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 401")
    for _, other in [*held, (reader, writer)]:
        other.close()


async def test_a_body_that_nobody_reads_does_not_keep_a_connection(
    house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is refused before the body and goes on to send it, a byte at a time, is cut."""
    monkeypatch.setattr(bastion.api.connections, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(bastion.api.connections, "BODY_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*house.address)
    writer.write(b"POST /api/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 401")
    ended = asyncio.create_task(reader.read())
    async with asyncio.timeout(20):
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.05)
    with contextlib.suppress(ConnectionResetError):
        await ended
    writer.close()


async def test_answers_that_nobody_takes_do_not_keep_a_connection(
    house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks and asks and never reads is cut, and there is room for others."""
    monkeypatch.setattr(bastion.api.connections, "STALLED_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*house.address, limit=1024)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not writer.is_closing():
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
                await writer.drain()
                await asyncio.sleep(0)
    assert writer.is_closing() or reader.at_eof()


async def test_E6_idle_connections_keep_nobody_from_the_api(house: ApiHouse) -> None:
    """With 140 idle connections of five addresses, all that a listener waits for, every request is answered."""
    token = house.token("sessions:read")
    held = [
        await asyncio.open_connection(*house.address, local_addr=(f"127.0.0.{2 + number % 5}", 0))
        for number in range(140)
    ]
    for _ in range(8):
        async with house.client(token) as http:
            assert (await http.get("/healthz")).status_code == 200
    async with house.client(token) as http:
        for _ in range(8):
            assert (await http.get("/healthz")).status_code == 200
        answers = await asyncio.gather(*(http.get("/healthz") for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    async with house.admin() as http:
        assert (await http.get("/healthz")).status_code == 200
    for _, other in held:
        other.close()


async def test_E6_handshakes_that_do_not_come_keep_nobody_from_the_api(tmp_path: Path) -> None:
    """The same by TLS: 140 connections whose handshake does not come."""
    pem, key = certificate(tmp_path)
    async with running(tmp_path, SshSettings(listen=("127.0.0.1:0",))) as inner:
        made = ApiHouse(inner, tmp_path)
        settings = ApiSettings(listen=("127.0.0.1:0",), certificate=pem, private_key=key)
        async with serve_api(made.api, settings) as addresses:
            held = [
                await asyncio.open_connection(*addresses[0], local_addr=(f"127.0.0.{2 + number % 5}", 0))
                for number in range(140)
            ]
            for _ in range(8):
                assert await shown(addresses[0]) == pem.read_text()
            for _, other in held:
                other.close()


async def test_waiting_connections_of_a_listener_are_bounded(house: ApiHouse) -> None:
    """However many addresses they come from, no more than so many are held, the oldest of the largest going first."""
    held = [
        await asyncio.open_connection(*house.address, local_addr=(f"127.0.1.{1 + number}", 0))
        for number in range(MAX_WAITING + 40)
    ]
    async with asyncio.timeout(20):
        while sum(reader.at_eof() or reader.exception() is not None for reader, _ in held) < 40:
            await asyncio.sleep(0.05)
    assert sum(reader.at_eof() or reader.exception() is not None for reader, _ in held) == 40
    for _, other in held:
        other.close()


async def test_place_of_a_request_is_given_back(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, on one connection and on many, more are answered than there are places at a time."""
    monkeypatch.setattr(bastion.api.connections, "MAX_ANSWERING", 1)
    async with house.client() as http:
        for _ in range(5):
            assert (await http.get("/healthz")).status_code == 401
    for _ in range(5):
        async with house.client() as http:
            assert (await http.get("/healthz")).status_code == 401

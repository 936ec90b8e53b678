"""Read from kubeconfigs where a cluster is and who to be there, as kubectl does; run credential plugins, bounded."""

import asyncio
import base64
import contextlib
import errno
import json
import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from bastion.errors import RuntimeUnreachable
from bastion.tasks import background

_FILE_LIMIT: Final = 4 * 1024 * 1024
_OUTPUT_LIMIT: Final = 1024 * 1024  # bytes of a credential plugin's output
_PLUGIN_SECONDS: Final = 30.0
_LAST_SECONDS: Final = 1.0  # for the output of a plugin that has ended, when something it left holds the pipe
_TOKEN_FILE_SECONDS: Final = 120.0  # a token in a file is replaced at any time; it is read again a minute before this
_SHOWN: Final = 20
_PATHS: Final = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
}
_RENEW: Final = "renew the credentials in the kubeconfig, for instance by logging in to the cluster again"


@dataclass(frozen=True, slots=True)
class Login:
    """One context: its `cluster` and `user` as in a kubeconfig, with absolute paths and what a plugin gave put in.

    `expires` is when to log in anew, in seconds since the epoch.
    """

    cluster: Mapping[str, Any] = field(repr=False)
    user: Mapping[str, Any] = field(repr=False)
    namespace: str | None
    expires: float = math.inf


async def log_in(kubeconfig: Path | None, context: str | None) -> Login | None:
    """Return the context named, or the current one; None when there is no kubeconfig at all.

    Of KUBECONFIG, or `~/.kube/config`, when no file is named; of several files the first that says something wins.

    Raises:
        RuntimeUnreachable: a file cannot be read, there is no such context, or its credential plugin failed.
    """
    files = _files(kubeconfig)
    if not files:
        return None
    merged = await asyncio.to_thread(_merge, files)
    shown = ", ".join(map(str, files))
    return await _complete(merged, context, shown)


def _files(kubeconfig: Path | None) -> list[Path]:
    if kubeconfig is not None:
        return [kubeconfig]
    if named := os.environ.get("KUBECONFIG"):
        files = [Path(name).expanduser() for name in named.split(os.pathsep) if name]
        return [file for file in files if _may_exist(file)] or files[:1]
    home = Path("~/.kube/config").expanduser()
    return [home] if _may_exist(home) else []


def _may_exist(file: Path) -> bool:
    """Tell whether there is a file; one that cannot be looked at is left to `_read`, which says why."""
    try:
        file.stat()
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR}
    return True


def _merge(files: list[Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {"current-context": None, "clusters": {}, "users": {}, "contexts": {}}
    for file in files:
        content = _read(file)
        merged["current-context"] = merged["current-context"] or content.get("current-context")
        for part in ("clusters", "users", "contexts"):
            for entry in content.get(part) or []:
                if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                    value = entry.get(part[:-1])
                    absolute = _absolute(value if isinstance(value, dict) else {}, part, file.absolute().parent)
                    merged[part].setdefault(entry["name"], absolute)
    return merged


def _read(file: Path) -> dict[str, Any]:
    hint = "name a kubeconfig that this user may read: [kubernetes] kubeconfig, or $KUBECONFIG"
    try:
        with file.open("rb") as opened:
            text = opened.read(_FILE_LIMIT + 1)
    except FileNotFoundError as error:
        raise RuntimeUnreachable(f"there is no kubeconfig {file}", hint) from error
    except OSError as error:
        raise RuntimeUnreachable(f"the kubeconfig {file} cannot be read", hint, detail=str(error)) from error
    where = ""
    content = None
    with contextlib.suppress(RecursionError, ValueError):
        try:
            content = yaml.safe_load(text) if len(text) <= _FILE_LIMIT else None
        except yaml.MarkedYAMLError as error:  # its text quotes the line, which may be a secret
            where = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        except yaml.YAMLError:
            where = "it is not text"
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part) or [], list) for part in ("clusters", "users", "contexts")
    ):
        raise RuntimeUnreachable(
            f"{file} is no kubeconfig", "kubectl config view shows what it should be", detail=where
        )
    return content


def _absolute(value: dict[str, Any], part: str, folder: Path) -> dict[str, Any]:
    """Resolve the paths in one entry against the folder of its file."""
    found = dict(value)
    for key in _PATHS.get(part, ()):
        if isinstance(found.get(key), str) and found[key]:
            found[key] = str(folder / found[key])
    plugin = found.get("exec")
    if part == "users" and isinstance(plugin, dict):
        command = plugin.get("command")
        if isinstance(command, str) and os.sep in command:
            found["exec"] = plugin | {"command": str(folder / command)}
    return found


async def _complete(merged: Mapping[str, Any], context: str | None, shown: str) -> Login:
    name = context or merged["current-context"]
    contexts = merged["contexts"]
    if not isinstance(name, str) or name not in contexts:
        known = sorted(contexts)
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise RuntimeUnreachable(
            f"the kubeconfig has no context {name}" if name else "the kubeconfig has no current context",
            f"its contexts: {', '.join(known[:_SHOWN])}{more}" if known else "it has no contexts at all",
            detail=shown,
        )
    chosen = contexts[name]
    cluster = merged["clusters"].get(chosen.get("cluster"))
    user = merged["users"].get(chosen.get("user"), {} if not chosen.get("user") else None)
    if cluster is None or user is None or not isinstance(cluster.get("server"), str):
        missing = "user" if cluster is not None and user is None else "cluster with a server"
        raise RuntimeUnreachable(
            f"the kubeconfig's context {name} has no {missing}", "kubectl config view shows what is there", detail=shown
        )
    namespace = chosen.get("namespace")
    user, expires = await _credentials(user, cluster)
    return Login(cluster, user, namespace if isinstance(namespace, str) and namespace else None, expires)


async def _credentials(user: Mapping[str, Any], cluster: Mapping[str, Any]) -> tuple[Mapping[str, Any], float]:
    """Return the user with the token of its file or plugin put in, and when that is to be done again."""
    if user.get("as-user-extra"):
        raise RuntimeUnreachable("as-user-extra in a kubeconfig is not supported", "use another user of the cluster")
    if isinstance(user.get("tokenFile"), str):
        try:
            token = (await asyncio.to_thread(Path(user["tokenFile"]).read_text, encoding="ascii")).strip()
        except (OSError, ValueError) as error:
            raise RuntimeUnreachable(
                f"the kubeconfig's token file {user['tokenFile']} cannot be read",
                "let this user read it",
                detail=type(error).__name__,
            ) from error
        return {**user, "token": token}, time.time() + _TOKEN_FILE_SECONDS
    plugin = user.get("exec")
    if isinstance(plugin, dict) and not user.get("token"):
        given, expires = _given(await _run_plugin(plugin, cluster), plugin)
        return {key: value for key, value in user.items() if key != "exec"} | given, expires
    return {key: value for key, value in user.items() if key != "exec"}, math.inf


async def _run_plugin(plugin: Mapping[str, Any], cluster: Mapping[str, Any]) -> bytes:
    """Run a credential plugin for at most 30 s, without a terminal, and return what it printed."""
    command, arguments = plugin.get("command"), plugin.get("args") or []
    if not isinstance(command, str) or not isinstance(arguments, list):
        raise RuntimeUnreachable("the kubeconfig's credential plugin has no command", _RENEW)
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        known = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
        spec["cluster"] = {key: cluster[key] for key in known if key in cluster}
    info = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": spec}
    variables = {
        str(entry["name"]): str(entry.get("value", ""))
        for entry in plugin.get("env") or []
        if isinstance(entry, dict) and "name" in entry
    }
    try:
        async with asyncio.timeout(_PLUGIN_SECONDS):
            status, out = await _output(
                command, [*map(str, arguments)], {**variables, "KUBERNETES_EXEC_INFO": json.dumps(info)}
            )
    except TimeoutError as error:
        raise RuntimeUnreachable(
            f"the kubeconfig's credential plugin {command} gave nothing in {_PLUGIN_SECONDS:.0f} s",
            "it may be waiting for somebody to log in; run it by hand",
        ) from error
    except (OSError, ValueError) as error:
        raise RuntimeUnreachable(
            f"the kubeconfig's credential plugin {command} cannot be run",
            "install it where this user finds it, or name it by its whole path",
            detail=type(error).__name__,
        ) from error
    if status:
        raise RuntimeUnreachable(
            f"the kubeconfig's credential plugin {command} failed with exit status {status}",
            "run it by hand; it may want somebody to log in again",
        )
    return out


async def _output(command: str, arguments: list[str], variables: Mapping[str, str]) -> tuple[int, bytes]:
    """Run a program in a process group of its own, which is killed if this is cancelled; return its status and output.

    What it says on standard error may quote secrets, and is dropped. The pipe is ours, not the process's: asyncio would
    wait for whoever else holds it.
    """
    loop = asyncio.get_running_loop()
    kept, reader = bytearray(), asyncio.StreamReader()
    read, write = os.pipe()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0))
    reading = background(_keep(reader, kept), name="credential plugin")
    process = None
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                command,
                *arguments,
                env={**os.environ, **variables},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(write)
        status = await process.wait()
        await asyncio.wait({reading}, timeout=_LAST_SECONDS)
        return status, bytes(kept)
    finally:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        pipe.close()
        reading.cancel()


async def _keep(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while data := await stream.read(65536):
        kept += data[: _OUTPUT_LIMIT - len(kept)]


def _given(output: bytes, plugin: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Read an ExecCredential (client.authentication.k8s.io) as keys of a kubeconfig's user, and when it expires."""
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    status = answer.get("status") if isinstance(answer, dict) else None
    given: dict[str, Any] = {}
    if isinstance(status, dict) and answer.get("apiVersion") == plugin.get("apiVersion"):
        if isinstance(status.get("token"), str):
            given["token"] = status["token"]
        pair = status.get("clientCertificateData"), status.get("clientKeyData")
        if isinstance(pair[0], str) and isinstance(pair[1], str):
            given["client-certificate-data"] = base64.b64encode(pair[0].encode()).decode()
            given["client-key-data"] = base64.b64encode(pair[1].encode()).decode()
    if not given or status is None:
        raise RuntimeUnreachable(
            f"the kubeconfig's credential plugin {plugin.get('command')} gave no credentials",
            f"it has to print an ExecCredential of {plugin.get('apiVersion')}",
        )
    return given, _epoch(status.get("expirationTimestamp"))


def _epoch(timestamp: object) -> float:
    try:
        moment = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

"""Start and stop the stand-in cluster as a process of its own, and write what clients need to reach it."""

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.cluster.certificates import make

_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 30


class StandIn:
    """A running stand-in over a Docker Engine.

    Attributes:
        folder: its files: kubeconfig (contexts `standin`, by certificate, and `token`), ca.crt, and serviceaccount/ as
            a pod has it (token, ca.crt, namespace).
        port: its port on 127.0.0.1.
    """

    def __init__(self, host: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bastion-standin-"))
        make(self.folder, "admin")
        self._account = self.folder / "serviceaccount"
        self._account.mkdir()
        self._write_token(secrets.token_urlsafe(24))
        shutil.copy(self.folder / "ca.crt", self._account / "ca.crt")
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster", str(self.folder), host],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
                start_new_session=True,  # an interrupt of the tests ends it by its standard input, in good order
            )
        self.port = self._await_port()

    def write_kubeconfig(self, namespace: str) -> Path:
        """Write the kubeconfig, its contexts in this namespace, and return its path."""
        server = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.folder / "ca.crt")}
        certificate = {"client-certificate": str(self.folder / "user.crt"), "client-key": str(self.folder / "user.key")}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "standin", "cluster": server}],
            "users": [
                {"name": "admin", "user": certificate},
                {"name": "bearer", "user": {"tokenFile": str(self._account / "token")}},
            ],
            "contexts": [
                {"name": "standin", "context": {"cluster": "standin", "user": "admin", "namespace": namespace}},
                {"name": "token", "context": {"cluster": "standin", "user": "bearer", "namespace": namespace}},
            ],
            "current-context": "standin",
        }
        (self._account / "namespace").write_text(namespace)
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(made))
        path.chmod(0o600)
        return path

    def rotate_token(self) -> None:
        """Give the service account a new token; the old one is worth nothing from now on."""
        token = secrets.token_urlsafe(24)
        self.switch(token=token)
        self._write_token(token)

    def switch(self, **switches: Any) -> None:
        """Set these switches; none at all sets every one back."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "control"))
        with httpx.Client(transport=transport, timeout=20) as client:
            client.post("http://standin/", json=switches).raise_for_status()

    def close(self) -> None:
        """Stop it; its containers go with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        words = (self.folder / "log").read_text(errors="replace").strip()
        shutil.rmtree(self.folder)
        assert not words, f"the stand-in complained: {words}"

    def _write_token(self, token: str) -> None:
        path = self._account / "token"
        path.write_text(token)
        path.chmod(0o600)

    def _await_port(self) -> int:
        until = time.monotonic() + _START_SECONDS
        while not (self.folder / "port").exists():
            words = (self.folder / "log").read_text(errors="replace")
            assert self._process.poll() is None, f"the stand-in ended: {words}"
            assert time.monotonic() < until, f"the stand-in did not come up: {words}"
            time.sleep(0.02)
        return int((self.folder / "port").read_text())

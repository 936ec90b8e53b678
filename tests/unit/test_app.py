"""The composition root: which adapters a configuration makes, and what is imported for them."""

import subprocess
import sys
from pathlib import Path

import pytest

from bastion.app import build_runtimes
from bastion.config import load
from bastion.errors import ConfigurationError

STACKS = """
[docker]
host = "unix:///d"
[kubernetes]
kubeconfig = "none.yaml"
context = "near"
[[stacks]]
name = "a"
[[stacks]]
name = "b"
host = "tcp://127.0.0.1:1"
[[stacks]]
name = "c"
runtime = "kubernetes"
[[stacks]]
name = "d"
context = "far"
[[stacks]]
name = "e"
context = "far"
namespace = "other"
toolbox = "busybox"
"""


@pytest.mark.parametrize(
    ("text", "engines"),
    [
        ("", {"unix:///var/run/docker.sock": "DockerRuntime"}),
        ("[docker]\nhost = 'tcp://127.0.0.1:1'", {"tcp://127.0.0.1:1": "DockerRuntime"}),
        ("[kubernetes]", {"kubernetes:": "KubernetesRuntime"}),
        ("[kubernetes]\ncontext = 'k'", {"kubernetes:k": "KubernetesRuntime"}),
        ("[docker]\n[kubernetes]\n", {"unix:///var/run/docker.sock": "DockerRuntime"}),
        (
            STACKS,
            {
                "unix:///d": "DockerRuntime",
                "tcp://127.0.0.1:1": "DockerRuntime",
                "kubernetes:near": "KubernetesRuntime",
                "kubernetes:far": "KubernetesRuntime",
            },
        ),
    ],
)
async def test_one_adapter_for_each_engine(text: str, engines: dict[str, str], tmp_path: Path) -> None:
    """Each engine that the configuration names has one adapter, which bears its name; no engine is asked."""
    (tmp_path / "bastion.toml").write_text(text)
    runtimes = build_runtimes(load(tmp_path / "bastion.toml"))
    assert {engine: type(runtime).__name__ for engine, runtime in runtimes.items()} == engines
    assert [runtime.name for runtime in runtimes.values()] == list(engines)
    for runtime in runtimes.values():
        await runtime.close()


@pytest.mark.parametrize("engine", ["[docker]\nhost = 'unix:///d'\n", "[kubernetes]\ncontext = 'k'\n"])
async def test_a_changed_toolbox_is_followed(engine: str, tmp_path: Path) -> None:
    """A stack's toolbox that changes by a reload makes its engine's adapter anew; what stays the same keeps it."""
    file = tmp_path / "bastion.toml"
    file.write_text(engine)
    runtimes = build_runtimes(load(file))
    (before,) = runtimes.values()
    file.write_text(engine + "[[stacks]]\nname = 'a'\ntoolbox = 'one'")
    runtimes.apply(load(file))
    (with_one,) = runtimes.values()
    runtimes.apply(load(file))
    assert next(iter(runtimes.values())) is with_one is not before
    file.write_text(engine + "[[stacks]]\nname = 'a'\ntoolbox = 'two'")
    runtimes.apply(load(file))
    assert next(iter(runtimes.values())) is not with_one
    await runtimes.close()


async def test_E11_a_further_engine_is_known_to_the_others(tmp_path: Path) -> None:
    """An engine that a reload adds makes the others' adapters anew: no container of theirs may mount its socket."""
    file = tmp_path / "bastion.toml"
    file.write_text("[docker]\nhost = 'unix:///d'\n")
    runtimes = build_runtimes(load(file))
    before = runtimes["unix:///d"]
    file.write_text("[docker]\nhost = 'unix:///d'\n[[stacks]]\nname = 'a'\nhost = 'unix:///e'\n")
    runtimes.apply(load(file))
    assert set(runtimes) == {"unix:///d", "unix:///e"}
    assert runtimes["unix:///d"] is not before
    await runtimes.close()


def test_engine_of_another_kind_is_refused(tmp_path: Path) -> None:
    """An address that is no engine's is named before anything starts."""
    (tmp_path / "bastion.toml").write_text("[docker]\nhost = 'ssh://elsewhere'")
    with pytest.raises(ConfigurationError, match="ssh://elsewhere"):
        build_runtimes(load(tmp_path / "bastion.toml"))


@pytest.mark.parametrize(
    ("text", "loaded"), [("", {"docker"}), ("[kubernetes]", {"aiohttp", "kubernetes"}), ("[docker]\n", {"docker"})]
)
def test_sdk_is_imported_where_it_is_configured(text: str, loaded: set[str], tmp_path: Path) -> None:
    """A bastion of one kind of engine imports nothing of the other's SDK; building the app imports neither."""
    (tmp_path / "bastion.toml").write_text(text)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from bastion.app import build_runtimes\nfrom bastion.config import load\n"
        "sdks = {'docker', 'kubernetes', 'aiohttp'}\nassert not sdks & sys.modules.keys(), sdks & sys.modules.keys()\n"
        "build_runtimes(load(Path('bastion.toml')))\nprint(*sorted(sdks & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr == ""
    assert set(done.stdout.split()) == loaded

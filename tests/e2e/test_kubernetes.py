"""What only a cluster has: names of pods, pods that go, connections that break, rights that are missing."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.cluster import Cluster
from tests.e2e.places import Place, deploy
from tests.e2e.server import Bastion, uid_of

pytestmark = pytest.mark.kubernetes

PROMPT = rb"[#$] "


@pytest.fixture
def switches(cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster to a test that breaks it, and mend it afterwards."""
    yield cluster
    if not cluster.real:
        cluster.switch()


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> list[str]:
    """Give the names of the two pods of the Deployment `api-deployment`; each has a container api and one log."""
    deploy(cluster, "api-deployment", {"api": cluster.image, "log": cluster.image}, replicas=2)
    return cluster.pods("api-deployment")


def _wait(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return result


def test_the_status_is_the_programs_whatever_it_left(bastion: Bastion) -> None:
    """A child that holds the output for four seconds does not change the status."""
    assert bastion.ssh("sleep 4 & exit 3").returncode == 3


@pytest.mark.parametrize("command", ["cat /dev/zero", "head -c 40000000 /dev/zero; exit 0"])
def test_a_connection_cut_in_the_middle_is_no_success(
    bastion: Bastion, place: Place, switches: Cluster, command: str
) -> None:
    """Output that breaks off ends the client with 255 and words, and nothing of the session is left in the pod."""
    switches.switch(cut_after=1_000_000)
    done = bastion.ssh(f"sleep 6363 & {command}")
    switches.switch()
    assert done.returncode == 255
    assert b"connection to the cluster was lost" in done.stderr
    assert _wait(20, lambda: not place.running("web", "sleep 6363"))


def test_an_end_without_a_status_is_no_success(bastion: Bastion, switches: Cluster) -> None:
    """A stream that closes politely and says no status is 255."""
    switches.switch(no_status=True)
    done = bastion.ssh("echo hi")
    assert (done.returncode, done.stdout) == (255, b"hi\n")


@pytest.mark.parametrize("how", ["grace", "now", "frozen", "evicted", "node lost"])
def test_a_pod_that_goes_ends_its_sessions(bastion: Bastion, switches: Cluster, how: str) -> None:
    """Deleted, evicted or without its node: within 5 s the terminal says why, and the client ends with 255."""
    name = f"doomed-{how.replace(' ', '-')}"
    deploy(switches, name, {"web": switches.image})
    pod = switches.pods(name)[0]
    try:
        shell = bastion.terminal(name=f"{name}@mystack")
        uid_of(shell)
        shell.expect(PROMPT)
        if how == "frozen":
            switches.switch(freeze_on_delete=True)
        if how == "evicted":
            switches.switch(evict=pod)
        elif how == "node lost":
            switches.switch(node_lost=pod)
        else:
            switches.delete("Pod", pod, grace=0 if how == "now" else None)
        shell.expect(rb"bastion: error: .*%s.*(deleted|evicted|node)" % pod.encode(), timeout=5)
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 255
    finally:
        switches.delete("Deployment", name)


def test_names_lead_where_they_say(bastion: Bastion, api: list[str]) -> None:
    """A service with and without its suffix, a replica, a container and a pod by its name each lead there."""
    names = {
        "api": None, "api-deployment": None, "api.1": api[0], "api.2": api[1], api[0]: api[0], api[1]: api[1],
        "api+log": None, "api.2+log": api[1], f"{api[1]}+log": api[1],
    }  # fmt: skip
    for name, pod in names.items():
        done = bastion.ssh("hostname", name=f"{name}@mystack")
        assert done.returncode == 0, (name, done.stderr)
        assert done.stdout.decode().strip() in ([pod] if pod else api), name


def test_a_session_has_its_eight_names(bastion: Bastion, api: list[str], cluster: Cluster) -> None:
    """`bastion sessions list --json` shows what Cloud 66's Session has, with the container that was named."""
    shell = bastion.terminal("sleep 1000", name="api.2+log@mystack")
    try:
        assert _wait(20, lambda: any(one["pod_name"] == api[1] for one in bastion.sessions()))
        (session,) = [one for one in bastion.sessions() if one["pod_name"] == api[1]]
        assert {
            "service_name": "api", "namespace": cluster.namespace, "command": "sleep 1000", "stack": "mystack",
            "deployment_name": "api-deployment", "pod_name": api[1], "container_name": "log",
        }.items() <= session.items()  # fmt: skip
        assert {"uid", "title"} <= session.keys()
    finally:
        shell.close(force=True)
    header = bastion.read(session["uid"])[0]["bastion"]
    assert (header["pod_name"], header["container_name"]) == (api[1], "log")


@pytest.mark.parametrize(
    ("name", "words"),
    [("web+nosuch@mystack", b"log"), ("nosuch@mystack", b"web"), ("web.9@mystack", b"1"), ("web@nosuch", b"mystack")],
)
def test_names_of_nothing_are_explained(bastion: Bastion, name: str, words: bytes) -> None:
    """A wrong container, service, replica or stack is 251, one line, and a hint that lists what there is."""
    done = bastion.ssh("true", name=name)
    assert done.returncode == 251
    first, second = done.stderr.splitlines()
    assert first.startswith(b"bastion: error: ")
    assert second.startswith(b"bastion: hint: ")
    assert words in done.stderr


def test_a_service_without_a_ready_pod_names_its_pods(bastion: Bastion, switches: Cluster) -> None:
    """No pod of a service is ready: 251, and the hint names the pod, which can be entered by its own name."""
    deploy(switches, "ailing", {"web": switches.image})
    pod = switches.pods("ailing")[0]
    try:
        switches.switch(not_ready=[pod])
        assert _wait(20, lambda: bastion.ssh("true", name="ailing@mystack").returncode == 251)
        done = bastion.ssh("true", name="ailing@mystack")
        assert done.returncode == 251
        assert b"ready" in done.stderr
        assert pod.encode() in done.stderr
        assert bastion.ssh("echo in", name=f"{pod}@mystack").stdout == b"in\n"
    finally:
        switches.switch()
        switches.delete("Deployment", "ailing")


def test_a_container_without_a_shell_says_what_helps(bastion: Bastion, cluster: Cluster) -> None:
    """A pod whose image has no shell is refused with 255, and the hint names the toolbox."""
    if cluster.image_bare is None:
        pytest.skip("BASTION_TEST_IMAGE_BARE names no image without a shell for this cluster")
    bare = {"name": "bare", "image": cluster.image_bare}
    if not cluster.pods("bare"):
        cluster.deployment("bare", containers=[bare])
    done = bastion.ssh("true", name="bare@mystack")
    assert done.returncode == 255
    assert b"shell" in done.stderr
    assert b"toolbox" in done.stderr


def test_a_toolbox_enters_what_has_no_shell(own: Bastion, cluster: Cluster) -> None:
    """With a toolbox for the stack, a shell-less container is looked into from beside it, and its files are there."""
    if cluster.image_bare is None:
        pytest.skip("BASTION_TEST_IMAGE_BARE names no image without a shell for this cluster")
    if not cluster.pods("bare"):
        cluster.deployment("bare", containers=[{"name": "bare", "image": cluster.image_bare}])
    text = own.config.read_text()
    own.config.write_text(
        text.replace('runtime = "kubernetes"\n', f'runtime = "kubernetes"\ntoolbox = "{cluster.image}"\n')
    )
    own.start()
    refused = own.ssh("true", name="bare@mystack")
    assert refused.returncode == 255
    assert b"no grant lets you enter by a toolbox" in refused.stderr
    granted = 'stacks = ["*"]\nallow = ["shell", "exec", "toolbox"]\n'
    own.config.write_text(own.config.read_text().replace('stacks = ["*"]\n', granted))
    os.kill(own.pid, signal.SIGHUP)
    assert _wait(30, lambda: own.ssh("true", name="bare@mystack").returncode == 0)
    done = own.ssh("ls /proc/1/root; echo status >&2; exit 6", name="bare@mystack")
    assert done.returncode == 6, done.stderr
    assert b"sleep\n" in done.stdout
    assert b"bastion: note: " in done.stderr
    assert own.ssh("pwd; echo $BASTION_SESSION", name="bare@mystack").stdout.startswith(b"/")


def test_missing_rights_are_named(bastion: Bastion, switches: Cluster) -> None:
    """Without `create` on `pods/exec` a session ends with 255 and `bastion check` with 1: both name exactly that."""
    switches.switch(forbid=[["create", "pods/exec"]])
    done = bastion.ssh("true")
    assert done.returncode == 255
    assert b"the bastion may not create pods/exec in the namespace " in done.stderr
    checked = bastion.cli("check", check=False)
    assert checked.returncode == 1
    assert [line for line in checked.stderr.splitlines() if "error" in line] == [
        f"bastion: error: engine: in the namespace {switches.namespace} the bastion may not create pods/exec"
    ]
    switches.switch()
    assert bastion.cli("check", check=False).returncode == 0


def test_expiry_and_restart_of_the_api_hit_new_sessions_only(own: Bastion, switches: Cluster) -> None:
    """An open shell goes on while the API server knows our token no more, when new ones are refused, or restarts."""
    own.start()
    shell = own.terminal()
    shell.expect(PROMPT)
    switches.switch(token_expired=True)
    refused = own.ssh("true")
    assert refused.returncode == 255
    first, second = refused.stderr.splitlines()
    assert b"does not know the bastion's credentials any more" in first
    assert second.startswith(b"bastion: hint: ")
    shell.sendline(b"echo still-$((1+1))")
    shell.expect(rb"still-2")
    switches.switch()
    switches.switch(restart=True)
    shell.sendline(b"echo more-$((1+2))")
    shell.expect(rb"more-3")
    shell.sendline(b"exit 5")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 5
    assert _wait(20, lambda: own.ssh("echo back").stdout == b"back\n")


@pytest.mark.parametrize("what", ["no file", "no server", "no context", "bad yaml"])
def test_a_cluster_that_cannot_be_reached_is_named(cluster: Cluster, tmp_path: Path, what: str) -> None:
    """The bastion serves, `check` says what is wrong, and a session is refused with 255: one line and a hint."""
    kubeconfig = tmp_path / "kubeconfig"
    text = cluster.kubeconfig.read_text()
    context = ""
    if what == "no server":
        server = next(line for line in text.splitlines() if "server:" in line)
        kubeconfig.write_text(text.replace(server.split("server:")[1].strip(), "https://127.0.0.1:1"))
    elif what == "no context":
        kubeconfig.write_text(text)
        context = 'context = "nosuch"\n'
    elif what == "bad yaml":
        kubeconfig.write_text("clusters: [\n")
    sections = f'[kubernetes]\nkubeconfig = "{kubeconfig}"\n{context}'
    server_ = Bastion(tmp_path / "b", sections).start()
    try:
        done = server_.ssh("true")
        assert done.returncode == 255
        first, second = done.stderr.splitlines()
        assert first.startswith(b"bastion: error: ")
        assert second.startswith(b"bastion: hint: ")
        checked = server_.cli("check", check=False)
        assert checked.returncode == 1
        assert "Traceback" not in checked.stderr
        if what == "no server":
            assert "127.0.0.1:1" in checked.stderr
    finally:
        server_.stop()


def test_kubectl_takes_the_examples(cluster: Cluster) -> None:
    """`kubectl apply -k examples/kubernetes --dry-run=client` is clean."""
    command = [
        "kubectl",
        "--kubeconfig",
        str(cluster.kubeconfig),
        "apply",
        "-k",
        "examples/kubernetes",
        "--dry-run=client",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        pytest.skip("kubectl is not installed")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(dry run)" in done.stdout

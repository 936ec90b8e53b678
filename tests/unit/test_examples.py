"""The examples: what is shown to newcomers loads, renders, and gives the bastion the rights that it asks about."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bastion.config import load
from tests.cluster import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
KUBERNETES = EXAMPLES / "kubernetes"
USER = 10001

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def render(tmp_path: Path) -> Render:
    """Give the objects that kustomize makes of a copy of the example, with components switched on."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")

    def render(*components: str) -> list[dict[str, Any]]:
        copy = tmp_path / "-".join(("example", *components))
        shutil.copytree(KUBERNETES, copy)
        top = copy / "kustomization.yaml"
        for name in components:
            text = top.read_text()
            assert f"  # - {name} " in text
            top.write_text(text.replace(f"  # - {name} ", f"  - {name} "))
        done = subprocess.run(["kubectl", "kustomize", str(copy)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return list(yaml.safe_load_all(done.stdout))

    return render


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [made for made in objects if made["kind"] == kind]
    return found


def rights(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Return (group, resource, verb) of every rule."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


LOOK = ("get", "list", "watch")
LEAST = {
    *(("", "pods", verb) for verb in LOOK),
    *(("", resource, verb) for resource in ("pods/exec", "pods/portforward") for verb in ("get", "create")),
    *(("apps", resource, verb) for resource in ("deployments", "statefulsets", "daemonsets") for verb in LOOK),
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.toml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_configuration_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example configuration is right."""
    settings = load(path)
    assert settings.grants
    assert all(settings.engine_of(stack.name) for stack in settings.stacks)


def test_configuration_of_the_cluster_means_the_cluster() -> None:
    """The example for clusters has no engine but the pod's own cluster, and paths that the Deployment mounts."""
    settings = load(KUBERNETES / "bastion" / "bastion.toml")
    assert {settings.engine_of(stack) for stack in ("", "myapp-production", "another")} == {"kubernetes:"}
    pod = yaml.safe_load((KUBERNETES / "bastion" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    mounted = [Path(mount["mountPath"]) for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")]
    assert settings.api.socket is not None
    for path in (settings.keys.home, settings.audit.directory, settings.api.socket):
        assert path.parent in mounted
    assert settings.ssh.listen == ("0.0.0.0:2222",)
    assert pod["containers"][0]["ports"][0]["containerPort"] == 2222


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_yaml_parses(path: Path) -> None:
    """Every example in YAML is YAML, one object a document."""
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(path.read_text()))


def test_kustomizations_name_what_lies_beside_them() -> None:
    """Every file of a folder is in it, and nothing else: this holds where there is no kubectl to say so, too."""
    for path in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(path.read_text())
        generated = [file for made in content.get("configMapGenerator") or () for file in made["files"]]
        named = {*(content.get("resources") or ()), *generated}
        assert named <= {entry.name for entry in path.parent.iterdir()}
        if path.parent != KUBERNETES:
            assert named | {path.name} == {entry.name for entry in path.parent.iterdir()}


def test_role_holds_the_least_rights() -> None:
    """The Role and the optional ClusterRole hold the rights of the issue, each once, and no other."""
    for path in ("application/role.yaml", "cluster-wide/clusterrole.yaml"):
        role, binding = yaml.safe_load_all((KUBERNETES / path).read_text())
        assert rights(role) == LEAST
        assert binding["roleRef"]["kind"] == role["kind"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "bastion", "namespace": "bastion"}]


def test_kustomize_renders_it(render: Render) -> None:
    """The whole is a bastion in its own namespace and a Role, and nothing more, in the application's."""
    objects = render()
    assert sorted({made["metadata"].get("namespace", "") for made in objects}) == ["", "bastion", "myapp-production"]
    there = [made["kind"] for made in objects if made["metadata"].get("namespace") == "myapp-production"]
    assert sorted(there) == ["Role", "RoleBinding"]
    assert rights(one(objects, "Role")) == LEAST
    assert not [made for made in objects if made["kind"].startswith("Cluster") or made["kind"] == "Secret"]
    deployment, configuration = one(objects, "Deployment"), one(objects, "ConfigMap")
    assert "bastion.toml" in configuration["data"]
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["configuration"]["configMap"]["name"] == configuration["metadata"]["name"]


def test_components_add_what_they_say(render: Render) -> None:
    """The toolbox adds one right to every role there is; cluster-wide adds a ClusterRole of the same rights."""
    toolbox = ("", "pods/ephemeralcontainers", "patch")
    assert rights(one(render("toolbox"), "Role")) == LEAST | {toolbox}
    assert rights(one(render("cluster-wide"), "ClusterRole")) == LEAST
    both = render("cluster-wide", "toolbox")
    assert rights(one(both, "Role")) == rights(one(both, "ClusterRole")) == LEAST | {toolbox}


def test_bastion_is_as_narrow_as_can_be(render: Render) -> None:
    """No container of the Deployment is root, writes its image, or has a capability."""
    pod = one(render(), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert f"USER {USER}:" in (EXAMPLES.parent / "Dockerfile").read_text()


def test_service_leads_to_the_port(render: Render) -> None:
    """Port 22 of the Service is the Deployment's SSH port, by its name and labels."""
    objects = render()
    service, deployment = one(objects, "Service"), one(objects, "Deployment")
    (port,) = service["spec"]["ports"]
    pod = deployment["spec"]["template"]
    named = {entry["name"]: entry["containerPort"] for entry in pod["spec"]["containers"][0]["ports"]}
    assert (port["port"], named[port["targetPort"]]) == (22, 2222)
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_key_home_is_unpacked_with_its_modes(tmp_path: Path) -> None:
    """The init container's script unpacks the Secret once, for its owner alone, and what is there already stays."""
    pod = yaml.safe_load((KUBERNETES / "bastion" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    (script,) = pod["initContainers"][0]["args"]
    state, secret, home = tmp_path / "state", tmp_path / "secret", tmp_path / "keys"
    for folder in (state, secret, home / "host"):
        folder.mkdir(parents=True)
    (home / "host" / "key").write_text("private")
    (home / "host" / "key").chmod(0o660)
    subprocess.run(["tar", "-C", str(home), "-cf", str(secret / "keys.tar"), "."], check=True)
    script = script.replace("/var/lib/bastion", str(state)).replace("/etc/bastion-keys", str(secret))
    for _ in range(2):
        subprocess.run(["sh", "-euc", script], check=True)
        key = state / "keys" / "host" / "key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o077 == 0
        kept = key.read_text()
        key.write_text("changed")
        key.chmod(0o660)
    assert kept == "changed"


@pytest.mark.kubernetes
@pytest.mark.parametrize("toolbox", [False, True])
async def test_role_is_what_the_bastion_asks_for(cluster: Cluster, *, toolbox: bool) -> None:
    """With the example's rights nothing is missing; without any, what is missing is exactly them."""
    from bastion.runtimes.kubernetes import KubernetesRuntime  # noqa: PLC0415 - its SDK is dear

    needed = LEAST | ({("", "pods/ephemeralcontainers", "patch")} if toolbox else set())
    runtime = KubernetesRuntime(
        cluster.kubeconfig,
        "token",
        namespaces={"mystack": cluster.namespace},
        toolboxes={"mystack": "busybox"} if toolbox else {},
    )
    try:
        cluster.switch(rights=[(verb, resource) for _, resource, verb in needed])
        assert await runtime.faults() == []
        cluster.switch(rights=[])
        (fault,) = await runtime.faults()
        start = f"in the namespace {cluster.namespace} the bastion may not "
        assert fault.public.startswith(start)
        named = set()
        for words in fault.public.removeprefix(start).split("; "):
            verbs, _, place = words.rpartition(" ")
            resource, _, group = place.partition(".")
            named |= {(group, resource, verb) for verb in verbs.split(" and ")}
        assert named == needed
        assert "examples/kubernetes" in fault.hint
    finally:
        cluster.switch()
        await runtime.close()


@pytest.mark.kubernetes
def test_kubectl_applies_it(cluster: Cluster) -> None:
    """`kubectl apply -k examples/kubernetes --dry-run=client` is clean."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "apply", "-k", str(KUBERNETES), "--dry-run=client"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == done.stdout.count("created (dry run)") > 8

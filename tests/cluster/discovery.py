"""What the stand-in says about itself: its version, and the resources that it has."""

from dataclasses import dataclass
from typing import Final

from tests.cluster.answers import Object

_VERBS: Final = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """A kind of object: its group ("" for the core), version, plural, kind, and whether it lives in a namespace."""

    group: str
    version: str
    plural: str
    kind: str
    short: tuple[str, ...] = ()
    namespaced: bool = True

    @property
    def full(self) -> str:
        """The name in messages and in the store: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def group_version(self) -> str:
        """As in apiVersion: `v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES: Final = (
    Resource("", "v1", "namespaces", "Namespace", ("ns",), namespaced=False),
    Resource("", "v1", "nodes", "Node", ("no",), namespaced=False),
    Resource("", "v1", "pods", "Pod", ("po",)),
    Resource("", "v1", "services", "Service", ("svc",)),
    Resource("", "v1", "configmaps", "ConfigMap", ("cm",)),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", ("sa",)),
    Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", ("pvc",)),
    Resource("apps", "v1", "deployments", "Deployment", ("deploy",)),
    Resource("apps", "v1", "replicasets", "ReplicaSet", ("rs",)),
    Resource("apps", "v1", "statefulsets", "StatefulSet", ("sts",)),
    Resource("apps", "v1", "daemonsets", "DaemonSet", ("ds",)),
    Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", ("netpol",)),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", ("pdb",)),
)

SUBRESOURCES: Final = {
    "pods": {
        "exec": "PodExecOptions",
        "portforward": "PodPortForwardOptions",
        "ephemeralcontainers": "Pod",
        "eviction": "Eviction",
    },
}


def version(of: str) -> Object:
    """Return /version for a server of version `of`, such as 1.36."""
    major, minor = of.split(".")
    made: Object = {"major": major, "minor": minor, "gitVersion": f"v{of}.0", "gitCommit": "standin"}
    made |= {"gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25.0"}
    return made | {"compiler": "gc", "platform": "linux/amd64"}


def find(group: str, version_: str, plural: str) -> Resource | None:
    """Return the resource of that name; None when there is none."""
    return next((one for one in RESOURCES if (one.group, one.version, one.plural) == (group, version_, plural)), None)


def answer_to(path: str, server: str) -> Object | None:
    """Answer a discovery path (/api, /apis, /api/v1, /apis/G, /apis/G/V, /openapi/v3…); None when it is none."""
    groups = {one.group: one.version for one in RESOURCES} | {"authorization.k8s.io": "v1"}
    if path.startswith("/openapi/v3"):
        return _openapi(path.removeprefix("/openapi/v3").strip("/"), groups)
    return _discovery(path, groups, server)


def _discovery(path: str, groups: dict[str, str], server: str) -> Object | None:
    match path.strip("/").split("/"):
        case ["api"]:
            addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}
        case ["apis"]:
            made = [_group(group, version_) for group, version_ in groups.items() if group]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": made}
        case ["apis", group] if group in groups:
            return {"kind": "APIGroup", "apiVersion": "v1"} | _group(group, groups[group])
        case ["api", "v1"]:
            return _resources("", "v1")
        case ["apis", group, version_]:
            return _resources(group, version_) if groups.get(group) == version_ else None
    return None


def _openapi(path: str, groups: dict[str, str]) -> Object | None:
    """Answer /openapi/v3: that the server validates fields itself, which is all that kubectl wants to know of it."""
    paths = {f"apis/{group}/{made}" if group else f"api/{made}": (group, made) for group, made in groups.items()}
    if not path:
        return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}?hash=1"} for name in paths}}
    if path not in paths:
        return None
    group, version_ = paths[path]
    field: Object = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    described: Object = {}
    for one in RESOURCES:
        if one.group == group:
            kind = {"group": group, "version": version_, "kind": one.kind}
            patch: Object = {"parameters": [field], "responses": {"200": {"description": "OK"}}}
            described[f"/{path}/{one.plural}/{{name}}"] = {"patch": patch | {"x-kubernetes-group-version-kind": kind}}
    info = {"title": "Kubernetes", "version": "unversioned"}
    return {"openapi": "3.0.0", "info": info, "paths": described, "components": {"schemas": {}}}


def _group(group: str, version_: str) -> Object:
    entry = {"groupVersion": f"{group}/{version_}", "version": version_}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resources(group: str, version_: str) -> Object:
    entries: list[Object] = []
    for one in RESOURCES:
        if (one.group, one.version) != (group, version_):
            continue
        common: Object = {"singularName": one.kind.lower(), "namespaced": one.namespaced}
        entry = common | {"name": one.plural, "kind": one.kind, "verbs": list(_VERBS)}
        entries.append(entry | ({"shortNames": list(one.short)} if one.short else {}))
        for sub, kind in SUBRESOURCES.get(one.full, {}).items():
            entries.append(common | {"name": f"{one.plural}/{sub}", "kind": kind, "verbs": ["create", "get"]})
    if group == "authorization.k8s.io":
        review: Object = {"name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview"}
        entries.append(review | {"namespaced": False, "kind": "SelfSubjectAccessReview", "verbs": ["create"]})
    made: Object = {"kind": "APIResourceList", "apiVersion": "v1"}
    return made | {"groupVersion": f"{group}/{version_}" if group else version_, "resources": entries}

"""Ask a cluster what the bastion may do in a namespace, and name what it may not."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

from bastion.errors import RuntimeFailed
from bastion.runtimes.kubernetes.cluster import Answered, Cluster, path, refusal

_READ: Final = ("get", "list", "watch")
_OPEN: Final = ("get", "create")  # a WebSocket needs both since 1.35, kubectl's SPDY `create` alone
_RIGHTS: Final = (
    ("", "pods", _READ),
    ("", "pods/exec", _OPEN),
    ("", "pods/portforward", _OPEN),
    ("apps", "deployments", _READ),
    ("apps", "statefulsets", _READ),
    ("apps", "daemonsets", _READ),
)
_TOOLBOX: Final = ("", "pods/ephemeralcontainers", ("patch",))
_AT_ONCE: Final = 8


async def missing(
    cluster: Cluster, namespace: str, *, toolbox: bool, unlisted: Collection[str] = ()
) -> RuntimeFailed | None:
    """Return what the bastion may not do in a namespace, by SelfSubjectAccessReviews; None when it may do all it needs.

    `unlisted` are resources of `apps` whose list was refused in fact, whatever the review says.

    Raises:
        RuntimeUnreachable: the cluster does not answer.
    """
    limit = asyncio.Semaphore(_AT_ONCE)
    asked = [
        (group, resource, verb)
        for group, resource, verbs in (*_RIGHTS, *([_TOOLBOX] if toolbox else []))
        for verb in verbs
    ]

    async def may(group: str, resource: str, verb: str) -> bool:
        async with limit:
            if verb == "list" and resource in unlisted:
                return False
            return await _may(cluster, namespace, group, resource, verb)

    try:
        answers = await asyncio.gather(*(may(*right) for right in asked))
    except Answered as answered:
        return refusal(answered, f"ask what it may do in the namespace {namespace}")
    lacking: dict[str, list[str]] = {}
    for (group, resource, verb), answer in zip(asked, answers, strict=True):
        if not answer:
            lacking.setdefault(f"{resource}.{group}" if group else resource, []).append(verb)
    if not lacking:
        return None
    words = "; ".join(f"{' and '.join(verbs)} {resource}" for resource, verbs in lacking.items())
    return RuntimeFailed(
        f"in the namespace {namespace} the bastion may not {words}",
        "give it the Role of examples/kubernetes/application, there: set its namespace and kubectl apply -k it",
    )


async def _may(cluster: Cluster, namespace: str, group: str, resource: str, verb: str) -> bool:
    resource, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
    if subresource:
        attributes["subresource"] = subresource
    review: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await cluster.post(path("selfsubjectaccessreviews", api="apis/authorization.k8s.io/v1"), review)
    status = answer.get("status")
    return isinstance(status, dict) and status.get("allowed") is True

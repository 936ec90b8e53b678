"""Turn workloads into pods and keep them at their number, as the controller manager does, in the least that shows."""

import copy
import hashlib
import json
import secrets
from typing import Final

from tests.cluster.answers import Object
from tests.cluster.store import Store, now

_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
WORKLOADS: Final = {
    "deployments.apps": "Deployment",
    "statefulsets.apps": "StatefulSet",
    "daemonsets.apps": "DaemonSet",
}


def reconcile(store: Store) -> None:
    """Make and delete pods until every workload has its number, and write the workloads' status."""
    for resource in WORKLOADS:
        for workload in list(store.all(resource)):
            if resource == "deployments.apps":
                _reconcile(store, _replica_set(store, workload), "ReplicaSet", workload)
            else:
                _reconcile(store, workload, WORKLOADS[resource], workload)
            _report(store, resource, workload)
    for replica_set in list(store.all("replicasets.apps")):
        if not _owner_lives(store, replica_set, "deployments.apps"):
            store.remove(("replicasets.apps", replica_set["metadata"]["namespace"], replica_set["metadata"]["name"]))
    for pod in list(store.all("pods")):
        if pod["metadata"].get("ownerReferences") and not _pod_owner_lives(store, pod):
            mark_deleted(store, pod)


def mark_deleted(store: Store, pod: Object, grace: int | None = None) -> Object:
    """Give a pod its deletionTimestamp, as DELETE does; a shorter grace replaces a longer one."""
    metadata = pod["metadata"]
    seconds = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
    made = store.get(("pods", metadata["namespace"], metadata["name"])) or copy.deepcopy(pod)
    if seconds < made["metadata"].get("deletionGracePeriodSeconds", seconds + 1):
        made["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": seconds}
    return store.put(("pods", metadata["namespace"], metadata["name"]), made)


def hash_of(template: Object) -> str:
    """Return the pod-template-hash of a template."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:10])


def _replica_set(store: Store, deployment: Object) -> Object:
    metadata, spec = deployment["metadata"], deployment["spec"]
    digest = hash_of(spec["template"])
    key = ("replicasets.apps", metadata["namespace"], f"{metadata['name']}-{digest}")
    for other in list(store.all("replicasets.apps", metadata["namespace"])):
        if _is_owner(deployment, other) and other["metadata"]["name"] != key[2]:
            store.remove(("replicasets.apps", metadata["namespace"], other["metadata"]["name"]))
    found = store.get(key)
    if found is None:
        template = copy.deepcopy(spec["template"])
        labels = dict(template.setdefault("metadata", {}).get("labels") or {}) | {"pod-template-hash": digest}
        template["metadata"]["labels"] = labels
        made: Object = {"apiVersion": "apps/v1", "kind": "ReplicaSet"}
        made["metadata"] = {"labels": labels, "ownerReferences": [_reference(deployment, "Deployment")]}
        made["spec"] = {"replicas": spec.get("replicas", 1), "selector": spec["selector"], "template": template}
        return store.create(key, made)
    found["spec"]["replicas"] = spec.get("replicas", 1)
    return store.put(key, found)


def _reconcile(store: Store, owner: Object, kind: str, workload: Object) -> None:
    spec = owner["spec"]
    wanted = 1 if kind == "DaemonSet" else spec.get("replicas", 1)
    pods = [pod for pod in _pods_of(store, owner) if not pod["metadata"].get("deletionTimestamp")]
    pods = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")]
    if kind == "StatefulSet":
        names = [f"{owner['metadata']['name']}-{number}" for number in range(wanted)]
        missing = [name for name in names if store.get(("pods", owner["metadata"]["namespace"], name)) is None]
        surplus = [pod for pod in pods if pod["metadata"]["name"] not in names]
    else:
        missing = [f"{owner['metadata']['name']}-{_random()}" for _ in range(wanted - len(pods))]
        surplus = pods[wanted:]
    for name in missing:
        template = copy.deepcopy(spec["template"])
        metadata = {key: template.get("metadata", {}).get(key, {}) for key in ("labels", "annotations")}
        if kind == "StatefulSet":
            metadata["labels"] = metadata["labels"] | {"statefulset.kubernetes.io/pod-name": name}
        pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        metadata["ownerReferences"] = [_reference(owner, kind)]
        store.create(("pods", owner["metadata"]["namespace"], name), with_defaults(pod))
    for pod in surplus:
        mark_deleted(store, pod)


def with_defaults(pod: Object) -> Object:
    """Return a pod as admission leaves it: scheduled, with the fields that a server fills in."""
    made = copy.deepcopy(pod)
    spec: Object = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"}
    made["spec"] = spec | {"serviceAccountName": "default"} | made["spec"] | {"nodeName": "node-1"}
    made["status"] = {"phase": "Pending", "conditions": []}
    return made


def _pods_of(store: Store, owner: Object) -> list[Object]:
    return [pod for pod in store.all("pods", owner["metadata"]["namespace"]) if _is_owner(owner, pod)]


def _is_owner(owner: Object, owned: Object) -> bool:
    references = owned["metadata"].get("ownerReferences") or ()
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in references)


def _owner_lives(store: Store, owned: Object, resource: str) -> bool:
    namespace = owned["metadata"]["namespace"]
    return not owned["metadata"].get("ownerReferences") or any(
        _is_owner(owner, owned) for owner in store.all(resource, namespace)
    )


def _pod_owner_lives(store: Store, pod: Object) -> bool:
    kinds = {"ReplicaSet": "replicasets.apps"} | {kind: resource for resource, kind in WORKLOADS.items()}
    resource = kinds.get(pod["metadata"]["ownerReferences"][0]["kind"])
    return resource is None or _owner_lives(store, pod, resource)


def _reference(owner: Object, kind: str) -> Object:
    metadata = owner["metadata"]
    reference: Object = {"apiVersion": "apps/v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}
    return reference | {"controller": True, "blockOwnerDeletion": True}


def _report(store: Store, resource: str, workload: Object) -> None:
    metadata = workload["metadata"]
    made = store.get((resource, metadata["namespace"], metadata["name"]))
    if made is None:
        return
    owners = [workload, *store.all("replicasets.apps", metadata["namespace"])]
    owners = [owner for owner in owners if owner is workload or _is_owner(workload, owner)]
    pods = [pod for owner in owners for pod in _pods_of(store, owner)]
    pods = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    ready = sum(is_ready(pod) for pod in pods)
    made["status"] = {"replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
    made["status"] |= {"updatedReplicas": len(pods), "observedGeneration": metadata["generation"]}
    store.put((resource, metadata["namespace"], metadata["name"]), made)


def is_ready(pod: Object) -> bool:
    """Tell whether a pod's Ready condition is true."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _random() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(5))

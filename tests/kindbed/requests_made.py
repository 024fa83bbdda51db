"""What the operator asked of the API server, from its audit log: which rights it used, and what it wrote."""

from collections.abc import Iterable
from typing import Any, NamedTuple

Entry = dict[str, Any]
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Right(NamedTuple):
    """What a rule of a role grants."""

    group: str
    resource: str
    verb: str


def rights_used(entries: Iterable[Entry]) -> set[Right]:
    """The rights without which a request would have been refused; discovery is granted to everybody."""
    used = set()
    for entry in entries:
        about = entry.get("objectRef") or {}
        if "resource" not in about:
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        right = Right(about.get("apiGroup", ""), resource, entry["verb"])
        used.add(right)
        # A server-side apply of what isn't there yet has to be granted twice, and says so by its answer.
        if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:
            used.add(right._replace(verb="create"))
    return used


def rights_granted(rules: Iterable[Entry]) -> set[Right]:
    """What the rules of roles grant."""
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def refused(entries: Iterable[Entry]) -> list[str]:
    """What the operator asked for without the right to."""
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries
        if entry.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
    ]


def writes(entries: Iterable[Entry]) -> list[str]:
    """What the operator wrote, its Lease apart."""
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries
        if entry["verb"] in WRITES and (entry.get("objectRef") or {}).get("resource") != "leases"
    ]


def lease_renewals(entries: Iterable[Entry]) -> int:
    """How often the Lease was written: by that, how much time has gone by for the operator."""
    return sum(
        1
        for entry in entries
        if (entry.get("objectRef") or {}).get("resource") == "leases" and entry["verb"] == "update"
    )

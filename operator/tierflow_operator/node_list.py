"""What is read of a list of nodes: the little that plans depend on, a tenth of what a node's object holds.

The rest (images, addresses, what wrote which field) is skipped while the answer is decoded, and never becomes objects.
"""

from typing import Any, TypedDict


class NodeMetadata(TypedDict, total=False):
    """Of a node."""

    name: str
    labels: dict[str, str]
    deletionTimestamp: str


class NodeSpec(TypedDict, total=False):
    """Of a node."""

    unschedulable: bool
    taints: list[dict[str, Any]]


class NodeCondition(TypedDict, total=False):
    """Of a node; `Ready` among them."""

    type: str
    status: str


class NodeStatus(TypedDict, total=False):
    """Of a node."""

    conditions: list[NodeCondition]


class ListedNode(TypedDict, total=False):
    """A node."""

    metadata: NodeMetadata
    spec: NodeSpec
    status: NodeStatus


NodeListMetadata = TypedDict("NodeListMetadata", {"continue": str, "resourceVersion": str}, total=False)
"""Of a page of a list."""


class NodeList(TypedDict, total=False):
    """A page of nodes."""

    metadata: NodeListMetadata
    items: list[ListedNode]

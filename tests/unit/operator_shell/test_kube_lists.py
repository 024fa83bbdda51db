"""Lists that come in pages, where newer API servers than those of the tests hide what older ones show."""

from typing import Any, cast

import pytest

from tierflow_operator.kube import PIPELINES, Kube, Resource
from tierflow_operator.kube_client import KubeClient
from tierflow_operator.kube_errors import ExpiredError


class Pages:
    """Answers with `pages`, one after the other; None for a page that is forgotten."""

    def __init__(self, *pages: list[str] | None) -> None:
        self.pages = list(pages)
        self.asked: list[str] = []

    def request(self, *_: Any, query: dict[str, str], **__: Any) -> dict[str, Any]:
        self.asked.append(query.get("continue", ""))
        page = self.pages.pop(0)
        if page is None:
            raise ExpiredError("the list of inferencepipelines: the provided continue parameter is too old")
        more = {"continue": f"after {page[-1]}"} if page[-1] != "z" else {}
        items = [{"metadata": {"name": name, "namespace": "vision", "managedFields": [1]}} for name in page]
        return {"metadata": more, "items": items}


def names(pages: Pages) -> list[str]:
    return [entry["metadata"]["name"] for entry in Kube(cast("KubeClient", pages)).pipelines()]


def test_pages_are_asked_for_one_after_the_other() -> None:
    pages = Pages(["a", "b"], ["c", "z"])
    assert names(pages) == ["a", "b", "c", "z"]
    assert pages.asked == ["", "after b"]


def test_a_list_whose_pages_the_server_has_forgotten_is_begun_again() -> None:
    pages = Pages(["a", "b"], None, ["a", "c"], ["z"])
    assert names(pages) == ["a", "c", "z"]
    assert pages.asked == ["", "after b", "", "after c"]


def test_a_list_that_is_forgotten_again_and_again_is_left_for_later() -> None:
    with pytest.raises(ExpiredError):
        names(Pages(["a"], None, ["a"], None))


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        (PIPELINES, "/apis/tierflow.dev/v1alpha1/namespaces/a%2Fb/inferencepipelines/c%3Fd/status"),
        (Resource("v1", "Pod", "pods"), "/api/v1/namespaces/a%2Fb/pods/c%3Fd/status"),
    ],
)
def test_paths_hold_names_as_they_are(resource: Resource, path: str) -> None:
    assert resource.path("a/b", "c?d", "status") == path

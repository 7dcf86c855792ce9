"""Paths into a JSON document: what they find, what is absent, what is no such document."""

from typing import Any

import pytest

from appliance.tables.known import fields

GRAPH = {
    "value": [{"mail": "a@x", "proxyAddresses": ["b@x", None]}, {"mail": None}, {}],
    "@odata.nextLink": "https://h/2",
}


@pytest.mark.parametrize(
    ("document", "path", "found"),
    [
        (GRAPH, "value[].mail", ["a@x"]),
        (GRAPH, "value[].proxyAddresses[]", ["b@x"]),
        (["a@x", "b@x"], "[]", ["a@x", "b@x"]),
        ([["a@x"], ["b@x"]], "[][]", ["a@x", "b@x"]),
        ([{"a": {"b": "c@x"}}, {"a": None}], "[].a.b", ["c@x"]),
        ({"d": {"users": [{"e.mail": "a@x"}]}}, 'd.users[]."e.mail"', ["a@x"]),
        ({"one": "a@x"}, "one", ["a@x"]),
        ({"one": None}, "one", []),
        ({"value": []}, "value[].mail", []),
    ],
)
def test_found(document: Any, path: str, found: list[str]) -> None:
    assert list(fields.values(document, fields.path(path))) == found


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "value[].mail"),
        ([], "value[].mail"),
        ({"value": None}, "value[].mail"),
        ({"value": {}}, "value[].mail"),
        ({"value": ["a@x"]}, "value[].mail"),
        ({"value": [{"mail": ["a@x"]}]}, "value[].mail"),
        ({"value": [{"mail": "a@x"}]}, "value[].mail[]"),
        ({"value": [{"mail": True}]}, "value[].mail"),
        ("a@x", "[]"),
    ],
)
def test_another_document(document: Any, path: str) -> None:
    with pytest.raises(fields.Mismatch):
        list(fields.values(document, fields.path(path)))


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a[", "a]b", "a[0]", 'a."b', "a.[]b", '""'])
def test_no_path(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        fields.path(text)


@pytest.mark.parametrize(
    ("document", "name", "link"),
    [
        (GRAPH, "@odata.nextLink", "https://h/2"),
        ({"paging": {"next": "/2"}}, "paging.next", "/2"),
        ({"paging": {"next": None}}, "paging.next", ""),
        ({"paging": {}}, "paging.next", ""),
        ({}, "@odata.nextLink", ""),
        ([], "@odata.nextLink", ""),
        (GRAPH, "", ""),
    ],
)
def test_the_next_page(document: Any, name: str, link: str) -> None:
    assert fields.link(document, name) == link


def test_a_link_that_is_none() -> None:
    with pytest.raises(fields.Mismatch):
        fields.link({"next": 7}, "next")

"""Trees: places computed from `children`, and inconsistent trees."""

from typing import TypedDict

import pytest
import sqlalchemy as sa

from mlapi.resources import TREE, Root
from mlapi.resources.fields import Field, Fields
from mlapi.resources.files import AllFiles, FileItem, Files
from mlapi.resources.items import Collection, Item
from mlapi.resources.jobs import JobItem, Jobs
from mlapi.resources.pipelines import Pipelines
from mlapi.resources.runs import RunItem, Runs
from mlapi.resources.tasks import Tasks
from mlapi.resources.tree import Node, Tree, TreeError
from mlapi.resources.users import Users

TABLE = sa.table("things", sa.column("id", sa.Integer), sa.column("name", sa.Text))


class ThingDocument(TypedDict):
    id: int


class Thing(Item[ThingDocument, ThingDocument]):
    key = "thing"
    fields = Fields(Field(TABLE.c.id), Field(TABLE.c.name))
    source = TABLE
    by = TABLE.c.id


class Things(Collection[Thing]):
    item = Thing


def root(**children):
    return type("Mount", (Node,), {"children": children})


def test_a_class_has_a_place_in_each_tree():
    other = Tree(root(people=Users), prefix="/other", name="other")
    assert TREE.path("job", {"user": "a", "pipeline": 1, "run": 2, "job": 3}) == (
        "/api/v1/users/a/pipelines/1/runs/2/jobs/3"
    )
    assert other.path("job", {"user": "a", "pipeline": 1, "run": 2, "job": 3}) == (
        "/other/people/a/pipelines/1/runs/2/jobs/3"
    )
    assert TREE.places[JobItem].items_above[0] is other.places[JobItem].items_above[0] is RunItem


def test_the_items_of_flat_collections_have_a_second_url():
    assert TREE.paths(FileItem) == ["/api/v1/users/{user}/files/{file}", "/api/v1/files/{file}"]
    assert TREE.paths(type("Nothing", (Node,), {})) == []


def test_a_class_with_two_places_is_rejected():
    with pytest.raises(TreeError, match="Users has two places: /a and /b"):
        Tree(root(a=Users, b=Users))


def test_two_classes_of_the_same_kind_are_rejected():
    one, another = (type(name, (Node,), {"kind": "thing"}) for name in ("One", "Another"))
    with pytest.raises(TreeError, match="the same kind, 'thing'"):
        Tree(root(a=one, b=another))


@pytest.mark.parametrize("collection", [Files, Pipelines, Tasks, Runs, Jobs])
def test_an_item_without_its_parent_is_rejected(collection):
    with pytest.raises(TreeError, match=f"{collection.item.__name__} is below no item"):
        Tree(root(things=collection))


def test_an_item_below_another_parent_is_rejected(monkeypatch):
    monkeypatch.setattr(Thing, "children", {"jobs": Jobs})
    monkeypatch.setattr(Thing, "fields", Fields(Field(TABLE.c.id, sort=True)))
    with pytest.raises(TreeError, match="JobItem is below Thing"):
        Tree(root(things=Things))


def test_a_flat_collection_of_items_without_a_place_is_rejected():
    with pytest.raises(TreeError, match="FileItem, the item of AllFiles, has no place"):
        Tree(root(files=AllFiles))


def test_a_field_missing_in_the_document_is_rejected(monkeypatch):
    monkeypatch.setattr(Thing, "fields", Fields(Field(TABLE.c.id, sort=True), Field(TABLE.c.name)))
    with pytest.raises(TreeError, match="Fields are missing in the document of Thing: name"):
        Tree(root(things=Things))


def test_a_list_ordered_by_an_unsortable_field_is_rejected(monkeypatch):
    monkeypatch.setattr(Thing, "fields", Fields(Field(TABLE.c.id)))
    with pytest.raises(TreeError, match="not a sortable field"):
        Tree(root(things=Things))


def test_two_fields_of_the_same_name_are_rejected():
    with pytest.raises(ValueError, match="same name"):
        Fields(Field(TABLE.c.id), Field(TABLE.c.name, "id"))


class TestMatch:
    URL = "/api/v1/users/ada/files/7"

    def test_only_the_path_of_a_url_is_compared(self):
        for url in (self.URL, f"http://elsewhere.example{self.URL}", f"//x{self.URL}?a=b#c"):
            assert TREE.match(url, ("file",)) == {"user": "ada", "file": "7"}

    def test_the_url_below_a_flat_collection_matches_the_same_item(self):
        assert TREE.match("/api/v1/files/7", ("file",)) == {"file": "7"}

    def test_paths_are_relative_to_the_root_of_the_application(self):
        assert TREE.match(f"/ml{self.URL}", ("file",), "/ml") == {"user": "ada", "file": "7"}
        assert TREE.match(self.URL, ("file",), "/ml") is None
        assert TREE.match(f"/ml{self.URL}", ("file",)) is None
        assert TREE.match(f"/mlx{self.URL}", ("file",), "/ml") is None

    def test_other_kinds_and_other_trees_do_not_match(self):
        other = Tree(Root, prefix="/other")
        assert TREE.match(self.URL, ("job", "run")) is None
        assert other.match(self.URL, ("file",)) is None
        assert other.match(f"/other{self.URL}", ("job", "file")) == {"user": "ada", "file": "7"}

    @pytest.mark.parametrize("url", ["", "x", "http://[", "/api/v1/users/ada/files", f"{URL}/content"])
    def test_other_urls_do_not_match(self, url):
        assert TREE.match(url, ("file",)) is None

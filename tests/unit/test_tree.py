"""The tree: places computed from `children`, and what cannot stand."""

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


def test_flat_collections_give_their_items_a_second_url():
    assert TREE.paths(FileItem) == ["/api/v1/users/{user}/files/{file}", "/api/v1/files/{file}"]
    assert TREE.paths(type("Nothing", (Node,), {})) == []


def test_a_class_that_stands_twice_is_refused():
    with pytest.raises(TreeError, match="Users stands at /a and at /b"):
        Tree(root(a=Users, b=Users))


def test_two_classes_of_one_kind_are_refused():
    one, another = (type(name, (Node,), {"kind": "thing"}) for name in ("One", "Another"))
    with pytest.raises(TreeError, match="both of kind 'thing'"):
        Tree(root(a=one, b=another))


@pytest.mark.parametrize("collection", [Files, Pipelines, Tasks, Runs, Jobs])
def test_an_item_without_the_parent_that_it_needs_is_refused(collection):
    with pytest.raises(TreeError, match=f"{collection.item.__name__} stands below no item"):
        Tree(root(things=collection))


def test_an_item_below_another_parent_than_it_needs_is_refused(monkeypatch):
    monkeypatch.setattr(Thing, "children", {"jobs": Jobs})
    monkeypatch.setattr(Thing, "fields", Fields(Field(TABLE.c.id, sort=True)))
    with pytest.raises(TreeError, match="JobItem stands below Thing"):
        Tree(root(things=Things))


def test_a_flat_collection_of_items_that_stand_nowhere_is_refused():
    with pytest.raises(TreeError, match="FileItem, which stand nowhere"):
        Tree(root(files=AllFiles))


def test_a_field_that_the_document_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(Thing, "fields", Fields(Field(TABLE.c.id, sort=True), Field(TABLE.c.name)))
    with pytest.raises(TreeError, match="The document of Thing lacks name"):
        Tree(root(things=Things))


def test_a_list_in_the_order_of_a_field_that_is_not_for_sorting_is_refused(monkeypatch):
    monkeypatch.setattr(Thing, "fields", Fields(Field(TABLE.c.id)))
    with pytest.raises(TreeError, match="no field to sort by"):
        Tree(root(things=Things))


def test_two_fields_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        Fields(Field(TABLE.c.id), Field(TABLE.c.name, "id"))


class TestMatch:
    URL = "/api/v1/users/ada/files/7"

    def test_only_the_path_of_a_url_counts(self):
        for url in (self.URL, f"http://elsewhere.example{self.URL}", f"//x{self.URL}?a=b#c"):
            assert TREE.match(url, ("file",)) == {"user": "ada", "file": "7"}

    def test_the_url_of_a_flat_collection_names_the_same_item(self):
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
    def test_what_is_no_url_of_the_kind_does_not_match(self, url):
        assert TREE.match(url, ("file",)) is None

"""Indexes: every list, every filter alone and the common pairs are served by one, for every caller."""

from itertools import product
from typing import TypedDict

import pytest
import sqlalchemy as sa

from mlapi.http.request import Request
from mlapi.resources import TREE
from mlapi.resources.fields import Field, Fields, Filter
from mlapi.resources.items import Collection, OwnedItem
from mlapi.resources.tree import Tree
from mlapi.security import UserIdentity
from tests.support import PAIRS

COLLECTIONS = [node for node in TREE.places if issubclass(node, Collection)]
CALLERS = [UserIdentity(1, "root", "admin"), UserIdentity(2, "ada", "user")]


def unserved(collection, caller, pairs=PAIRS, tree=TREE):
    """The sets of filters that no index serves."""
    request = Request.blank("/")
    listed = collection("1", tree(request), request)
    names = collection.item.fields.filters(collection.flat)
    sets = [(), *((name,) for name in names), *(pair for pair in pairs if set(pair) <= names.keys())]
    options = {"continued": False, "short": True, "lateral": False}
    return [names for names in sets if not listed._query(caller, names, **options).indexed]


@pytest.mark.parametrize(("collection", "caller"), list(product(COLLECTIONS, CALLERS)))
def test_every_list_and_filter_has_an_index(collection, caller):
    assert unserved(collection, caller) == []


class ToyDocument(TypedDict):
    """A toy."""

    id: int
    color: str
    size: int
    new: bool


def toys(*parts):
    """A flat list of toys with two filters, of a table with these indexes."""
    columns = [sa.Column(name, sa.Integer, primary_key=name == "id") for name in ("id", "owner_id", "size")]
    table = sa.Table("toys", sa.MetaData(), *columns, sa.Column("color", sa.Text), sa.Column("new", sa.Boolean), *parts)

    class Toy(OwnedItem[ToyDocument, ToyDocument]):
        key = "toy"
        fields = Fields(
            Field(table.c.id, sort=True),
            Field(table.c.color, filter=Filter.LISTS),
            Field(table.c.size, filter=Filter.LISTS),
            Field(table.c.new),
        )
        source = table
        by = table.c.id
        owner = table.c.owner_id

    class Toys(Collection[Toy]):
        item = Toy
        flat = True

    return Toys


def of(*columns):
    return sa.Index(None, *columns)


ALL = [(), ("color",), ("size",), ("color", "size")]


@pytest.mark.parametrize(
    ("parts", "of_admin", "of_user"),
    [
        ([], ALL[1:], ALL),
        ([of("owner_id", "id", "color")], ALL[1:], ALL[1:]),
        ([of("color", "id")], [("size",), ("color", "size")], ALL),
        ([of("color", "size", "id")], [("color",), ("size",)], ALL),
        ([of("owner_id", "color", "id")], ALL[1:], [(), ("size",), ("color", "size")]),
        ([of("color", "id"), of("size", "id")], [("color", "size")], ALL),
        ([of("color", "new", "id"), of("new", "size", "id")], [("color", "size")], ALL),
        ([of("color"), of("size"), of("id", "color")], ALL[1:], ALL),
    ],
)
def test_a_missing_index_is_found(parts, of_admin, of_user):
    flat = toys(*parts)
    found = [unserved(flat, caller, [("color", "size")], Tree(flat)) for caller in CALLERS]
    assert found == [of_admin, of_user]

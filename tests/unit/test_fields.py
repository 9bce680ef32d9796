"""Indexes: every list and every filter that the tables of fields mark is served by one."""

from typing import TypedDict

import pytest
import sqlalchemy as sa

from mlapi.resources import TREE
from mlapi.resources.fields import Field, Fields, Filter
from mlapi.resources.items import Collection, OwnedItem

COLLECTIONS = [node for tree in (TREE,) for node in tree.places if issubclass(node, Collection)]


def served(*columns):
    """Whether an index, a unique constraint or the primary key of a table begins with these columns of it."""
    table = columns[0].table
    kinds = sa.Index | sa.UniqueConstraint | sa.PrimaryKeyConstraint
    indexes = [list(part.columns) for part in (*table.indexes, *table.constraints) if isinstance(part, kinds)]
    return any(index[: len(columns)] == list(columns) for index in indexes)


def needed(collection):
    """The columns that the indexes of a list must begin with, as alternatives: one of each list has to exist."""
    item = collection.item
    order = item.fields[collection.order].column
    owner = getattr(item, "owner", None)
    if collection.tied_by is not None:
        yield [[collection.tied_by] if collection.few else [collection.tied_by, order]]
    else:
        yield [[order]]
    if collection.flat:
        yield [[owner, order]]
    for field in item.fields.filters(collection.flat).values():
        if field.indexed:
            of_owner = owner is not None and owner.table is field.column.table
            yield [[field.column], [owner, field.column]] if of_owner else [[field.column]]


def missing(collection):
    """The indexes that a list lacks."""
    return [
        " or ".join(f"({', '.join(map(str, columns))})" for columns in alternatives)
        for alternatives in needed(collection)
        if not any(served(*columns) for columns in alternatives)
    ]


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection.__name__)
def test_every_list_has_its_indexes(collection):
    assert missing(collection) == []


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection.__name__)
def test_an_indexed_field_is_one_to_filter_by(collection):
    fields = collection.item.fields
    assert [name for name in fields if fields[name].indexed and fields[name].filter is Filter.NOWHERE] == []


class ToyDocument(TypedDict):
    """A toy."""

    id: int
    color: str


def lists_of_toys(*parts, indexed=False, few=False):
    """A nested and a flat list of a table with these indexes and constraints."""
    columns = [sa.Column(name, sa.Integer, primary_key=name == "id") for name in ("id", "box", "owner_id")]
    table = sa.Table("toys", sa.MetaData(), *columns, sa.Column("color", sa.Text), *parts)

    class Toy(OwnedItem[ToyDocument, ToyDocument]):
        key = "toy"
        fields = Fields(Field(table.c.id, sort=True), Field(table.c.color, filter=Filter.LISTS, indexed=indexed))
        source = table
        by = table.c.id
        owner = table.c.owner_id

    nested = type("Nested", (Collection,), {"item": Toy, "tied_by": table.c.box, "few": few})
    return nested, type("Flat", (Collection,), {"item": Toy, "flat": True})


BOX, OWNER = ("box", "id"), ("owner_id", "id")


def of(*columns):
    return sa.Index(None, *columns)


@pytest.mark.parametrize(
    ("parts", "options", "of_nested", "of_flat"),
    [
        ([of(*BOX), of(*OWNER)], {}, [], []),
        ([sa.UniqueConstraint("box", "id"), of(*OWNER, "box")], {}, [], []),
        ([], {}, ["(toys.box, toys.id)"], ["(toys.owner_id, toys.id)"]),
        ([of("id", "box"), of("owner_id")], {}, ["(toys.box, toys.id)"], ["(toys.owner_id, toys.id)"]),
        ([of("box", "color"), of(*OWNER)], {}, ["(toys.box, toys.id)"], []),
        ([of("box", "color"), of(*OWNER)], {"few": True}, [], []),
        ([of("color", "box"), of(*OWNER)], {"few": True}, ["(toys.box)"], []),
        ([of(*BOX), of(*OWNER), of("color")], {"indexed": True}, [], []),
        ([of(*BOX), of(*OWNER), of("owner_id", "color", "id")], {"indexed": True}, [], []),
        *(
            ([of(*BOX), of(*OWNER), *more], {"indexed": True}, *2 * [["(toys.color) or (toys.owner_id, toys.color)"]])
            for more in ([], [of("box", "color")])
        ),
    ],
)
def test_a_missing_index_is_found(parts, options, of_nested, of_flat):
    nested, flat = lists_of_toys(*parts, **options)
    assert (missing(nested), missing(flat)) == (of_nested, of_flat)

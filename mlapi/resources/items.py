"""Items and collections: nodes that stand for rows, and how a walk to one becomes one SELECT.

A walk only collects the keys that the URL names. At its end, the item that it came to is loaded by a single statement
which joins the tables of all items on the way, so that it is found *within its parent*, and which tests whether the
caller may see it. The same condition is part of every list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast, get_args

import sqlalchemy as sa
from pyramid.authorization import Allow, Authenticated
from sqlalchemy.sql import visitors

from mlapi.resources.fields import Fields, Row
from mlapi.resources.tree import Access, Key, Linker, Node, Tree, TreeError
from mlapi.security import CALLER, Identity, Permission, RunnerIdentity, UserIdentity
from mlapi.values import row_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlapi.http.request import Request

Condition = sa.ColumnElement[bool]
Statement = sa.Select[*tuple[Any, ...]]
Summary = TypeVar("Summary", covariant=True)
Document = TypeVar("Document", covariant=True)


class Item(Node, Generic[Summary, Document]):
    """A resource backed by one row, loaded lazily.

    Its type parameters are the documents that it shows in lists and by itself.
    """

    fields: ClassVar[Fields]
    source: ClassVar[sa.FromClause]
    """What the fields are selected from, joined as far as they need."""
    by: ClassVar[sa.ColumnElement[object]]
    """The column that the key in the URL is compared with."""
    within: ClassVar[Condition | None] = None
    """The condition that ties a row to that of the parent item; both sources are in the statement."""
    summary_type: ClassVar[type]
    document_type: ClassVar[type]

    def __init_subclass__(cls) -> None:
        for base in cls.__dict__.get("__orig_bases__", ()):
            if documents := get_args(base):
                cls.summary_type, cls.document_type = documents
        cls.kind = cls.__dict__.get("kind", cls.key)

    def __init__(self, value: Key, parent: Node, request: Request) -> None:
        super().__init__(str(value), parent, request)
        self.value = value
        self._row: Row = None

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """The rows that the caller may see: one condition, for the item and for every list."""
        raise NotImplementedError

    @property
    def keys(self) -> dict[str, Key]:
        """The keys of the items of the URL, this item's included."""
        return {**super().keys, self.key: self.value}

    @property
    def row(self) -> Row:
        """The row of this item; raises KeyError where there is none that the caller may see under this parent."""
        if self._row is None:
            identity = self.request.require_identity()
            statement = self._statement(identity)
            values = self.keys | identity.parameters
            row = None if statement is None else self.request.reader.execute(statement, values).first()
            if row is None:
                raise KeyError(self.__name__)
            self._row = self.fields.row(row)
        return self._row

    @property
    def id(self) -> int:
        """The id of this item's row."""
        return int(self.row.id)

    def load(self) -> None:
        """Raise KeyError unless this item exists under its parent and the caller may see it."""
        _ = self.row

    def reload(self) -> Self:
        """Forget the row, which has changed; returns this item."""
        self._row = None
        return self

    def _statement(self, identity: Identity) -> Statement | None:
        """The SELECT that finds this item within those above it, built once for each kind of identity.

        None where identities of this kind see no rows at all.
        """
        nested = not isinstance(self.__parent__, AcrossOwners)
        key = (type(self), nested, identity.role)
        if key not in self.tree.statements:
            visible = self.visible(identity)
            query = sa.select(*self.fields.columns(detail=True)).select_from(self.source)
            above = self.lineage(self.tree) if nested else [self.by == sa.bindparam(self.key)]
            self.tree.statements[key] = None if isinstance(visible, sa.False_) else query.where(*above, visible)
        statement: Statement | None = self.tree.statements[key]
        return statement

    @classmethod
    def lineage(cls, tree: Tree) -> list[Condition]:
        """The conditions that tie a row to its own key and to the keys of all items above it."""
        own: list[Condition] = [cls.by == sa.bindparam(cls.key)]
        if cls.within is None:
            return own
        return [*own, cls.within, *cls.parent_item(tree).lineage(tree)]

    @classmethod
    def parent_item(cls, tree: Tree) -> type[Item[object, object]]:
        """The class of the nearest item above."""
        return cast("type[Item[object, object]]", tree.places[cls].items_above[0])

    @classmethod
    def settle(cls, tree: Tree) -> None:
        """Check that `within` ties the rows to the item above, and that the document has every field."""
        if cls.within is not None:
            above = tree.places[cls].items_above
            if not above or not _tables(cls.parent_item(tree).by) <= _tables(cls.within):
                name = above[0].__name__ if above else "no item"
                raise TreeError(f"{cls.__name__} stands below {name}, which its condition `within` does not name.")
        unknown = cls.fields.shown() - cls.document_type.__annotations__.keys()
        if unknown:
            raise TreeError(f"The document of {cls.__name__} lacks {', '.join(sorted(unknown))}.")

    @classmethod
    def describe(cls, row: Row, link: Linker) -> Summary:
        """The document of a row in a list."""
        raise NotImplementedError

    def document(self) -> Document:
        """The document of this item."""
        return cast("Document", self.describe(self.row, self.link))


def _tables(expression: sa.ClauseElement) -> set[str]:
    """The names of the tables whose columns an expression has."""
    tables = (getattr(element, "table", None) for element in visitors.iterate(expression))
    return {table.name for table in tables if isinstance(table, sa.TableClause)}


class OwnedItem(Item[Summary, Document]):
    """An item that belongs to a user, who may do everything with it; administrators see all."""

    owner: ClassVar[sa.ColumnElement[int]]
    """The id of the user it belongs to. The field `owner` is that user's name."""

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """Administrators see every row, users their own."""
        match identity:
            case UserIdentity(is_admin=True):
                return sa.true()
            case UserIdentity():
                return cls.owner == CALLER
            case RunnerIdentity():
                return sa.false()

    @property
    def __acl__(self) -> list[Access]:
        """The owner may read and write. Items above the end of the walk are not loaded, and grant nothing."""
        if self._row is None:
            return []
        return [(Allow, f"user:{self._row.owner}", (Permission.READ, Permission.WRITE))]


AnyItem = TypeVar("AnyItem", bound=Item[object, object], covariant=True)


class Collection(Node, Generic[AnyItem]):
    """A resource backed by the rows of one table under its parent."""

    item: ClassVar[type[Item[object, object]]]
    order: ClassVar[str] = "id"
    """The field that pages are ordered and cut by."""
    newest_first: ClassVar[bool] = True
    tied_by: ClassVar[sa.ColumnElement[object] | None] = None
    """The column that ties the rows to `parent_key`; None for a collection of all rows."""
    flat: ClassVar[bool] = False
    """Whether this is a flat collection, across owners."""

    def __getitem__(self, name: str) -> AnyItem:
        return cast("AnyItem", self.item(self.read_key(name), self, self.request))

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """The item below, then the fixed children."""
        yield f"{{{cls.item.key}}}", cls.item
        yield from cls.children.items()

    @classmethod
    def settle(cls, tree: Tree) -> None:  # noqa: ARG003 - any place will do
        """Check that lists can be in this collection's order."""
        if not cls.item.fields[cls.order].sort:
            raise TreeError(f"{cls.__name__} is in the order of {cls.order}, which is no field to sort by.")

    @property
    def parent(self) -> Item[object, object]:
        """The item whose rows these are."""
        return cast("Item[object, object]", self.__parent__)

    @property
    def parent_key(self) -> object:
        """The value of `tied_by` for the rows of this collection."""
        return self.parent.id

    def read_key(self, name: str) -> Key:
        """The key in a segment of the URL; raises KeyError for a segment that cannot be one."""
        key = row_id(name)
        if key is None:
            raise KeyError(name)
        return key

    def page(self, limit: int, after: int | None = None, **filters: object) -> tuple[Sequence[Row], int | None]:
        """At most `limit` rows that fit the filters, from behind the cursor `after` on, and the next cursor."""
        identity = self.request.require_identity()
        values = {name: value for name, value in filters.items() if value is not None}
        statement = self._statement(identity, tuple(values), after is not None)
        values |= identity.parameters | {"limit": limit + 1, "after": after}
        if self.tied_by is not None:
            values["parent"] = self.parent_key
        found = list(map(self.item.fields.list_row, self.request.reader.execute(statement, values).all()))
        return found[:limit], getattr(found[limit - 1], self.order) if len(found) > limit else None

    def _statement(self, identity: Identity, filters: tuple[str, ...], continued: bool) -> Statement:
        """The SELECT of a page, built once for each kind of identity and set of filters."""
        key = (type(self), identity.role, filters, continued)
        if key not in self.tree.statements:
            fields = self.item.fields
            order = fields[self.order].column
            query = sa.select(*fields.columns(detail=False)).select_from(self.item.source).where(*self._rows(identity))
            query = query.where(*(fields[name].column == sa.bindparam(name) for name in filters))
            if continued:
                after: Any = sa.bindparam("after")
                query = query.where(order < after if self.newest_first else order > after)
            query = query.order_by(order.desc() if self.newest_first else order)
            self.tree.statements[key] = query.limit(sa.bindparam("limit"))
        statement: Statement = self.tree.statements[key]
        return statement

    def _rows(self, identity: Identity) -> list[Condition]:
        """The conditions of the rows of this collection that the caller may see."""
        visible = self.item.visible(identity)
        if self.tied_by is None:
            return [visible]
        # Nested rows are found by their parent. Whatever visibility asks must not tempt the planner to another index,
        # as that of all rows of the owner.
        hidden_from_planner = visible if isinstance(visible, sa.True_) else sa.func.coalesce(visible, sa.false())
        return [self.tied_by == sa.bindparam("parent"), hidden_from_planner]

    def describe(self, rows: Sequence[Row]) -> Sequence[Any]:
        """The documents of the rows of a page."""
        return [self.item.describe(row, self.link) for row in rows]


class AcrossOwners(Collection[AnyItem]):
    """A flat collection: items of all owners, as far as the caller may see them, each at its place in the tree too."""

    flat = True

    @property
    def __acl__(self) -> list[Access]:
        """Every user may search."""
        return [(Allow, Authenticated, (Permission.READ,))]

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """Nothing: the items have their places elsewhere."""
        yield from ()

    @classmethod
    def settle(cls, tree: Tree) -> None:
        """Give the items a second URL, below this collection."""
        super().settle(tree)
        if cls.item not in tree.places:
            raise TreeError(f"{cls.__name__} has items of {cls.item.__name__}, which stand nowhere in the tree.")
        tree.places[cls.item].aliases.append(f"{tree.places[cls].path}/{{{cls.item.key}}}")


class Named(Collection[AnyItem]):
    """A collection whose items are known by name."""

    def read_key(self, name: str) -> str:
        """The name; none has NUL in it, for which PostgreSQL refuses to look."""
        if "\0" in name:
            raise KeyError(name)
        return name

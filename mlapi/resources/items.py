"""Items and collections: resources backed by database rows.

Traversal only collects the keys in the URL. The last item is loaded by a single SELECT that joins the tables of all its
ancestors, so that it is found only *within its parents*, and that contains the read rule `Item.visible`. Lists contain
the same rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast, get_args

import sqlalchemy as sa
from pyramid.authorization import Allow, Authenticated
from sqlalchemy.sql import visitors

from mlapi.database import TooSlow, time_limit
from mlapi.errors import Gone
from mlapi.http.problems import InvalidRequest
from mlapi.prepared import fetch
from mlapi.resources.fields import Fields, Row
from mlapi.resources.pages import SHORT, Column, Order, PageQuery, Selection, own_column, select_page
from mlapi.resources.tree import Access, Key, Linker, Node, Tree, TreeError
from mlapi.security import CALLER, Identity, Permission, RunnerIdentity, UserIdentity
from mlapi.values import row_id

if TYPE_CHECKING:
    from mlapi.database import Database
    from mlapi.http.request import Request

USERS_READ: list[Access] = [(Allow, Authenticated, (Permission.READ,))]
"""Every user may read."""

CHUNK = 51
"""Number of rows to read at once: a page of the default size, and the row after it."""

Condition = sa.ColumnElement[bool]
Statement = sa.Select[*tuple[Any, ...]]
Summary = TypeVar("Summary", covariant=True)
Document = TypeVar("Document", covariant=True)


class Item(Node, Generic[Summary, Document]):
    """A resource backed by one row, loaded lazily.

    The type parameters are its documents in lists and in responses about the single item.
    """

    fields: ClassVar[Fields]
    source: ClassVar[sa.FromClause]
    """The FROM clause of the fields."""
    by: ClassVar[sa.ColumnElement[object]]
    """The column of the key in the URL."""
    within: ClassVar[Condition | None] = None
    """The join condition with the row of the parent item; None without a parent."""
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
        """The read rule: the condition for rows that are visible to the caller, for single items and for lists."""
        raise NotImplementedError

    @property
    def keys(self) -> dict[str, Key]:
        """The keys in the URL of this item, by name, including its own."""
        return {**super().keys, self.key: self.value}

    @property
    def row(self) -> Row:
        """The row of this item; raises KeyError unless it exists under its parents and is visible to the caller."""
        if self._row is None:
            identity = self.request.require_identity()
            statement = self._statement(identity)
            values = self.keys | identity.parameters
            rows = [] if statement is None else fetch(self.request.reader, statement, values)
            if not rows:
                raise KeyError(self.__name__)
            self._row = self.fields.row(rows[0])
        return self._row

    @property
    def id(self) -> int:
        """The id of this item's row."""
        return int(self.row.id)

    def load(self) -> None:
        """Raise KeyError unless this item exists under its parents and is visible to the caller."""
        _ = self.row

    def reload(self) -> Self:
        """Load the row again after a change; returns this item. Raises `Gone`."""
        self._row = None
        try:
            self.load()
        except KeyError:
            raise Gone() from None
        return self

    def _statement(self, identity: Identity) -> Statement | None:
        """The SELECT of this item within its parents, built once for each role.

        None if no row is visible to the role.
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
        """The conditions on the keys of this item and of all its ancestors."""
        own: list[Condition] = [cls.by == sa.bindparam(cls.key)]
        if cls.within is None:
            return own
        return [*own, cls.within, *cls.parent_item(tree).lineage(tree)]

    @classmethod
    def parent_item(cls, tree: Tree) -> type[Item[object, object]]:
        """The class of the parent item."""
        return cast("type[Item[object, object]]", tree.places[cls].items_above[0])

    @classmethod
    def settle(cls, tree: Tree) -> None:
        """Check that `within` refers to the parent item, and that the document has all fields."""
        if cls.within is not None:
            above = tree.places[cls].items_above
            if not above or not _tables(cls.parent_item(tree).by) <= _tables(cls.within):
                name = above[0].__name__ if above else "no item"
                raise TreeError(f"{cls.__name__} is below {name}, but its condition `within` refers to another item.")
        unknown = cls.fields.shown() - cls.document_type.__annotations__.keys()
        if unknown:
            raise TreeError(f"Fields are missing in the document of {cls.__name__}: {', '.join(sorted(unknown))}.")

    @classmethod
    def describe(cls, row: Row, link: Linker) -> Summary:
        """The document of a row in a list."""
        raise NotImplementedError

    def document(self) -> Document:
        """The document of this item."""
        return cast("Document", self.describe(self.row, self.link))


def _tables(expression: sa.ClauseElement) -> set[str]:
    """The names of the tables in an expression."""
    tables = (getattr(element, "table", None) for element in visitors.iterate(expression))
    return {table.name for table in tables if isinstance(table, sa.TableClause)}


class OwnedItem(Item[Summary, Document]):
    """An item that belongs to a user. Its owner and administrators have full access to it."""

    owner: ClassVar[sa.ColumnElement[int]]
    """The column of the owner's id; the field `owner` is the owner's name."""

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """Administrators see all rows, users their own, runners none."""
        match identity:
            case UserIdentity(is_admin=True):
                return sa.true()
            case UserIdentity():
                return cls.owner == CALLER
            case RunnerIdentity():
                return sa.false()

    @property
    def __acl__(self) -> list[Access]:
        """The owner may read and write. Ancestors of the context are not loaded and grant nothing."""
        if self._row is None:
            return []
        return [(Allow, f"user:{self._row.owner}", (Permission.READ, Permission.WRITE))]


AnyItem = TypeVar("AnyItem", bound=Item[object, object], covariant=True)


class Collection(Node, Generic[AnyItem]):
    """A list of items: all, or those of its parent item."""

    item: ClassVar[type[Item[object, object]]]
    order: ClassVar[str] = "id"
    """The field that determines the order of the list, and the cursor."""
    newest_first: ClassVar[bool] = True
    tied_by: ClassVar[sa.ColumnElement[object] | None] = None
    """The column that is compared with `parent_key`; None for a collection of all rows."""
    few: ClassVar[bool] = False
    """Whether a parent has few of the rows, so that an index need not be in their order."""
    flat: ClassVar[bool] = False
    """Whether this is a flat collection, with the items of all owners."""

    def __getitem__(self, name: str) -> AnyItem:
        return cast("AnyItem", self.item(self.read_key(name), self, self.request))

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """The item class, then the fixed children."""
        yield f"{{{cls.item.key}}}", cls.item
        yield from cls.children.items()

    @classmethod
    def settle(cls, tree: Tree) -> None:  # noqa: ARG003 - any place is valid
        """Check that the field of `order` is sortable."""
        if not cls.item.fields[cls.order].sort:
            raise TreeError(f"{cls.__name__} is ordered by {cls.order}, which is not a sortable field.")

    @property
    def parent(self) -> Item[object, object]:
        """The parent item."""
        return cast("Item[object, object]", self.__parent__)

    @property
    def parent_key(self) -> object:
        """The value of `tied_by` in the rows of this collection."""
        return self.parent.id

    def read_key(self, name: str) -> Key:
        """The key in a URL segment; raises KeyError for a segment that cannot be a key."""
        key = row_id(name)
        if key is None:
            raise KeyError(name)
        return key

    def page(
        self, limit: int, after: int | None = None, *, most_bytes: float = math.inf, **filters: object
    ) -> tuple[Sequence[Row], int | None]:
        """At most `limit` rows that match the filters, starting after the cursor `after`, and the next cursor.

        The page also ends with the row by which it reaches `most_bytes`; the rows after it are read in part.
        """
        identity = self.request.require_identity()
        values = {name: value for name, value in filters.items() if value is not None}
        database: Database = self.request.registry.database
        query = self._query(
            identity, tuple(values), continued=after is not None, short=limit <= SHORT, lateral=database.lateral
        )
        values |= identity.parameters | {"limit": limit + 1, "after": after}
        if self.tied_by is not None:
            values["parent"] = self.parent_key
        fields, rows, size = self.item.fields, list[Row](), 0
        with self._bounded(query), self.request.reader.execute(query.statement, values) as result:
            while len(rows) <= limit and (chunk := list(map(fields.list_row, result.fetchmany(CHUNK)))):
                rows += chunk
                if size >= most_bytes:
                    break  # The page is full, and has a next one.
                size += fields.size(chunk)
        kept = rows[:limit] if size < most_bytes else self._first(rows[:limit], most_bytes)
        return kept, getattr(kept[-1], self.order) if len(rows) > len(kept) else None

    @contextmanager
    def _bounded(self, query: PageQuery) -> Iterator[None]:
        """Surround the execution of a query with a time limit, unless an index serves it. Raises `InvalidRequest`."""
        if query.indexed:
            yield
            return
        try:
            with time_limit(self.request.reader, self.request.settings.list_timeout):
                yield
        except TooSlow:
            raise InvalidRequest({"querystring": query.broad}) from None

    def _first(self, rows: list[Row], most_bytes: float) -> list[Row]:
        """The rows up to that by which they reach a size in bytes."""
        sizes = itertools.accumulate(self.item.fields.size([row]) for row in rows)
        return rows[: 1 + next((index for index, size in enumerate(sizes) if size >= most_bytes), len(rows))]

    def _query(
        self, identity: Identity, filters: tuple[str, ...], *, continued: bool, short: bool, lateral: bool
    ) -> PageQuery:
        """The SELECT of a page, built once for each role, set of filters and dialect."""
        key = (type(self), identity.role, filters, continued, short, lateral)
        if key not in self.tree.statements:
            fields = self.item.fields
            order = Order(fields[self.order].column, self.newest_first, continued)
            rows = Selection(*self._rows(identity), fields, tuple(fields.filters(self.flat)), filters)
            query = sa.select(*fields.columns(detail=False)).select_from(self.item.source)
            self.tree.statements[key] = select_page(query, rows, order, few=self.few, short=short, lateral=lateral)
        found: PageQuery = self.tree.statements[key]
        return found

    def _rows(self, identity: Identity) -> tuple[dict[Column, Column], Condition]:
        """The rows of this collection that are visible to the caller: the values of columns, and a condition."""
        visible = self.item.visible(identity)
        if self.tied_by is None:
            own = own_column(visible)
            return ({}, visible) if own is None else ({own: CALLER}, sa.true())
        # The planner must use the index on the parent. Without coalesce() it might prefer an index for the read rule,
        # such as that on the owner, and read all rows of the owner.
        hidden_from_planner = visible if isinstance(visible, sa.True_) else sa.func.coalesce(visible, sa.false())
        return {self.tied_by: sa.bindparam("parent")}, hidden_from_planner

    def describe(self, rows: Sequence[Row]) -> Sequence[Any]:
        """The documents of the rows of a page."""
        return [self.item.describe(row, self.link) for row in rows]


class AcrossOwners(Collection[AnyItem]):
    """A flat collection: the visible items of all owners, which also have their own places in the tree."""

    flat = True
    __acl__ = USERS_READ

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """Nothing: the places of the items are elsewhere."""
        yield from ()

    @classmethod
    def settle(cls, tree: Tree) -> None:
        """Add the URL of the items below this collection to their aliases."""
        super().settle(tree)
        if cls.item not in tree.places:
            raise TreeError(f"{cls.item.__name__}, the item of {cls.__name__}, has no place in the tree.")
        tree.places[cls.item].aliases.append(f"{tree.places[cls].path}/{{{cls.item.key}}}")


class Named(Collection[AnyItem]):
    """A collection of items that are identified by name."""

    def read_key(self, name: str) -> str:
        """The name; raises KeyError for a name with NUL, which PostgreSQL refuses to compare."""
        if "\0" in name:
            raise KeyError(name)
        return name

"""The kinds of nodes of the tree, and how a walk through it becomes one SELECT.

A walk only collects the keys that the URL names. At its end, the node that it came to is loaded by a single
statement which joins the tables of all the nodes on the way, so each is found *within its parent*, however
deep the URL. The statement and the URL template of a class are derived from `children`, written once.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from pyramid.authorization import Allow, Authenticated
from pyramid.httpexceptions import HTTPUnauthorized

from mlapi.errors import FieldError, Invalid
from mlapi.security import Permission


class Node:
    """A place in the tree; `children` says what is under it."""

    children: ClassVar[Mapping[str, type["Node"]]] = {}
    path: ClassVar[str] = ""
    """The URL template under which nodes of this class are found; `place` derives it."""
    __acl__: Any = ()

    def __init__(self, name: str, parent: "Node | None", request: Any) -> None:
        self.__name__, self.__parent__, self.request = name, parent, request

    @property
    def keys(self) -> dict[str, Any]:
        """What the URL named on the way here."""
        return self.__parent__.keys if self.__parent__ is not None else {}

    def __getitem__(self, name: str) -> "Node":
        return self.children[name](name, self, self.request)

    def load(self) -> None:
        """Raise KeyError where this node is not there; the walk ends with it."""
        if self.__parent__ is not None:
            self.__parent__.load()

    @classmethod
    def link(cls, request: Any, **keys: Any) -> str:
        """The URL of the node of this class with these keys."""
        return request.root_url + cls.path.format(**keys)  # type: ignore[no-any-return]


class Item(Node):
    """A node that stands for one row, loaded when it is first looked at."""

    key: ClassVar[str] = ""
    """Name of this item's key in URL templates."""
    columns: ClassVar[tuple[Any, ...]] = ()
    """What is selected for a list; every one has a label of its own."""
    details: ClassVar[tuple[Any, ...]] = ()
    """What is selected besides for the item itself."""
    source: ClassVar[Any] = None
    """What the columns are selected from, joined as far as they need."""
    by: ClassVar[Any] = None
    """The column that the key in the URL is compared with."""
    within: ClassVar[Any] = None
    """The condition that ties a row to that of the parent item; both sources are in the statement."""
    holder: ClassVar[type["Item"]]
    """The class of the nearest item above; `place` derives it."""
    _statement: ClassVar[Any] = None

    def __init__(self, value: Any, parent: Node, request: Any) -> None:
        super().__init__(str(value), parent, request)
        self.value = value
        self._row: Any = None

    @property
    def keys(self) -> dict[str, Any]:
        """What the URL named on the way here, this item's key included."""
        return {**super().keys, self.key: self.value}

    @property
    def row(self) -> Any:
        """The row of this item; raises KeyError where there is none under this parent."""
        if self._row is None:
            row = self.request.db.execute(self.statement(), self.keys).first()
            if row is None:
                raise KeyError(self.__name__)
            self._row = row
        return self._row

    @property
    def id(self) -> int:
        """The id of this item's row."""
        return int(self.row.id)

    def load(self) -> None:
        """Raise KeyError where there is no such row under this parent."""
        _ = self.row

    def fresh(self) -> Self:
        """Return this item, to be looked at anew: its row has changed."""
        self._row = None
        return self

    @classmethod
    def statement(cls) -> Any:
        """The SELECT that finds this item's row within those of all the items above it."""
        if "_statement" not in cls.__dict__:
            query = sa.select(*cls.columns, *cls.details).select_from(cls.source)
            cls._statement = query.where(*cls.lineage())
        return cls._statement

    @classmethod
    def lineage(cls) -> list[Any]:
        """The conditions that tie a row to its own key and to the keys of all the items above it."""
        own = [cls.by == sa.bindparam(cls.key)]
        return own if cls.within is None else [*own, cls.within, *cls.holder.lineage()]

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """How a row looks outside, in a list."""
        raise NotImplementedError

    def __json__(self, request: Any) -> dict[str, Any]:
        return self.describe(self.row, request)


class Collection(Node):
    """A node that stands for the rows of one table under its parent."""

    item: ClassVar[type[Item]]
    order: ClassVar[Any] = None
    """The column that pages are cut by."""
    newest_first: ClassVar[bool] = True
    filters: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """For each filter of a list, the condition that it puts, given the bound value."""
    mine: ClassVar[Any] = None
    """The condition that ties the rows to the parent, in terms of `scope`."""
    _statements: ClassVar[dict[Any, Any]] = {}

    def __getitem__(self, name: str) -> Item:
        return self.item(self.read_key(name), self, self.request)

    def read_key(self, name: str) -> Any:
        """The key that a segment of the URL names; raises KeyError for what can be none."""
        return number(name)

    def scope(self) -> dict[str, Any]:
        """The values that tie this list to the parent."""
        return {"parent": self.__parent__.id} if isinstance(self.__parent__, Item) else {}

    def page(self, limit: int, after: int | None = None, **filters: Any) -> tuple[list[Any], int | None]:
        """At most `limit` rows that fit the filters, from behind the key `after` on, and the key to go on from."""
        scope = self.scope()
        values = {name: value for name, value in filters.items() if value is not None}
        statement = self.statement(tuple(scope), tuple(values), after is not None)
        values |= scope | {"limit": limit + 1}
        if after is not None:
            values["after"] = after
        rows = self.request.db.execute(statement, values).all()
        return rows[:limit], rows[limit - 1].cursor if len(rows) > limit else None

    @classmethod
    def statement(cls, scope: tuple[str, ...], names: tuple[str, ...], goes_on: bool) -> Any:
        """The SELECT of a page, built once for each set of filters."""
        kind = (cls, scope, names, goes_on)
        if kind not in cls._statements:
            order = cls.order if cls.order is not None else cls.item.by
            query = sa.select(*cls.item.columns, order.label("cursor")).select_from(cls.item.source)
            query = query.where(*(cls.filters[name](sa.bindparam(name)) for name in names))
            if scope:
                query = query.where(cls.mine == sa.bindparam(scope[0]))
            if goes_on:
                bound: Any = sa.bindparam("after")
                query = query.where(order < bound if cls.newest_first else order > bound)
            query = query.order_by(order.desc() if cls.newest_first else order)
            cls._statements[kind] = query.limit(sa.bindparam("limit"))
        return cls._statements[kind]

    def describe(self, rows: list[Any]) -> list[dict[str, Any]]:
        """How the rows of a page look outside."""
        return [self.item.describe(row, self.request) for row in rows]


class Everyones(Collection):
    """A flat collection for search across owners, of what the caller may see."""

    __acl__ = [(Allow, Authenticated, Permission.READ)]

    def __getitem__(self, name: str) -> Item:
        raise KeyError(name)

    def scope(self) -> dict[str, Any]:
        """Admins see everybody's rows, others their own."""
        identity = self.request.identity
        return {} if identity.role == "admin" else {"caller": identity.id}


def number(name: str) -> int:
    """The id that a segment of the URL names; raises KeyError for what is none."""
    if not (name.isascii() and name.isdecimal() and len(name) < 19) or (name[0] == "0"):
        raise KeyError(name)
    return int(name)


def place(node: type[Node], path: str = "", holder: type[Item] = Item) -> Iterator[type[Node]]:
    """Give every class under `node` its URL template and the item that holds it; yields the classes, in order."""
    node.path = path
    yield node
    if issubclass(node, Item):
        node.holder = holder
        holder = node
    if issubclass(node, Collection) and not issubclass(node, Everyones):
        yield from place(node.item, f"{path}/{{{node.item.key}}}", holder)
    for name, child in node.children.items():
        yield from place(child, f"{path}/{name}", holder)


def match(kinds: tuple[type[Node], ...], url: str) -> dict[str, str] | None:
    """The keys that a URL names for a node of one of these classes, or None; only its path counts."""
    try:
        found = urlsplit(url).path.split("/")
    except ValueError:
        return None
    for kind in kinds:
        template = kind.path.split("/")
        if len(template) == len(found) and all(
            part == given or part.startswith("{") for part, given in zip(template, found, strict=True)
        ):
            parts = zip(template, found, strict=True)
            return {part[1:-1]: unquote(given) for part, given in parts if part.startswith("{")}
    return None


def references(kind: type[Item], urls: list[str], name: str, **above: Any) -> list[int]:
    """The ids that URLs of items of one class name, all under the same items `above`.

    A URL of another place names id 0, which is nobody's: it is refused as one that is not there. Raises `Invalid`
    with every URL of another kind.
    """
    found = [match((kind,), url) for url in urls]
    errors = [
        FieldError(f"{name}.{index}", f"Must be a URL like {kind.path}.")
        for index, keys in enumerate(found)
        if keys is None
    ]
    if errors:
        raise Invalid(errors)
    return [_number_under(above, kind.key, keys) for keys in found if keys is not None]


def _number_under(above: Mapping[str, Any], key: str, keys: dict[str, str]) -> int:
    """The id that a URL's keys name under the items `above`, or 0."""
    try:
        own = number(keys[key])
    except KeyError:
        return 0
    return own if all(keys[name] == str(value) for name, value in above.items()) else 0


def must_be_known(request: Any) -> Any:
    """Who asks; raises 401 where nobody says who he is, before the tree says what is there."""
    if request.identity is None:
        raise HTTPUnauthorized()
    return request.identity

"""Trees of resources: node classes, and their places in a tree.

A node class does not contain its URL. A `Tree` computes the place of every class, its URL template and its ancestor
items, from `children`. Therefore one application can have several trees of the same classes, each with its own prefix
and its own format of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeAlias, TypeVar, cast
from urllib.parse import unquote, urlsplit

from pyramid.decorator import reify

from mlapi.http.problems import Writer, write_problem

if TYPE_CHECKING:
    from mlapi.http.request import Request

Url = Annotated[str, "URL"]
"""An absolute URL of a resource of this service."""

Key: TypeAlias = str | int
"""The key of an item in a URL: a name or an id."""

Linker = Callable[..., Url]
"""The type of `Node.link`: a function from a kind and keys to a URL."""

Access = tuple[str, str, tuple[str, ...]]
"""An entry of an access control list: the action, a principal, and permissions."""


class TreeError(Exception):
    """A tree is inconsistent; the application does not start."""


class Node:
    """A resource; `children` maps the URL segments of its fixed children to their classes."""

    children: ClassVar[Mapping[str, type[Node]]] = {}
    kind: ClassVar[str] = ""
    """The name of this class in links and references; empty if nothing refers to it."""
    key: ClassVar[str] = ""
    """The name of this class's key in URL templates; empty for all classes except items."""
    public: ClassVar[bool] = False
    """Whether the resource is accessible without authentication."""

    tree: Tree

    def __init__(self, name: str, parent: Node | None, request: Request) -> None:
        self.__name__, self.__parent__, self.request = name, parent, request
        if parent is not None:
            self.tree = parent.tree

    @property
    def __acl__(self) -> list[Access]:
        """The access control list of this resource and its descendants."""
        return []

    @property
    def keys(self) -> dict[str, Key]:
        """The keys in the URL of this resource, by name."""
        return self.__parent__.keys if self.__parent__ is not None else {}

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """The child classes, with their segments of the URL template."""
        yield from cls.children.items()

    @classmethod
    def settle(cls, tree: Tree) -> None:
        """Validate the place of this class in a complete tree. Raises `TreeError`."""

    def __getitem__(self, name: str) -> Node:
        return self.children[name](name, self, self.request)

    def load(self) -> None:
        """Raise KeyError unless this resource exists and is visible to the caller."""
        if self.__parent__ is not None:
            self.__parent__.load()

    @reify
    def link(self) -> Linker:
        """The URL of the resource of a kind with these keys, in the tree of this resource."""
        return self.tree.linker(self.request.root_url)


Parent = TypeVar("Parent", bound=Node)


class Part(Node, Generic[Parent]):
    """A subresource of an item, such as its log or its cancellation."""

    @property
    def item(self) -> Parent:
        """The item of this subresource."""
        return cast(Parent, self.__parent__)


@dataclass(frozen=True)
class Place:
    """The place of a class in a tree: its URL template and the classes of its ancestor items, nearest first."""

    path: str
    items_above: tuple[type[Node], ...]
    aliases: list[str] = field(default_factory=list)
    """Further URL templates of the same items, such as that of a flat collection."""


class Tree:
    """The places of all classes below a root class. `prefix` is the URL path of the root.

    Raises `TreeError` for a class with two places, for two classes of the same kind, and for an item whose SELECT
    needs another parent.
    """

    def __init__(self, root: type[Node], prefix: str = "", name: str = "mlapi", writer: Writer = write_problem) -> None:
        self.root, self.prefix, self.name, self.writer = root, prefix, name, writer
        self.places: dict[type[Node], Place] = {}
        self.kinds: dict[str, type[Node]] = {}
        self.statements: dict[object, Any] = {}
        """A cache of the SELECTs of items and lists in this tree."""
        for node, path, items_above in walk_tree(root, prefix):
            self._add(node, Place(path, items_above))
        for node in self.places:
            node.settle(self)
        self._formats = {kind: self.places[node].path.format for kind, node in self.kinds.items()}

    def _add(self, node: type[Node], place: Place) -> None:
        if node in self.places:
            raise TreeError(f"{node.__name__} has two places: {self.places[node].path} and {place.path}.")
        if node.kind and node.kind in self.kinds:
            raise TreeError(f"{node.__name__} and {self.kinds[node.kind].__name__} have the same kind, {node.kind!r}.")
        self.places[node] = place
        if node.kind:
            self.kinds[node.kind] = node

    def __call__(self, request: Request) -> Node:
        """The root resource, for one request."""
        root = self.root("", None, request)
        root.tree = self
        return root

    def path(self, kind: str, keys: Mapping[str, object]) -> str:
        """The URL path of the resource of a kind with these keys, relative to the root of the application."""
        return self._formats[kind](**keys)

    def paths(self, node: type[Node]) -> list[str]:
        """The URL templates of a class: that of its place, then its aliases; empty if the tree does not contain it."""
        place = self.places.get(node)
        return [] if place is None else [place.path, *place.aliases]

    def linker(self, root_url: str) -> Linker:
        """A function that makes URLs from kinds and keys, for an application at `root_url`."""
        formats = self._formats

        def link(kind: str, /, **keys: object) -> Url:
            return root_url + formats[kind](**keys)

        return link

    def template(self, kind: str) -> str:
        """The URL template of the resources of a kind."""
        return self.places[self.kinds[kind]].path

    def match(self, url: str, kinds: tuple[str, ...], script_name: str = "") -> dict[str, str] | None:
        """The keys in the URL of a resource of one of these kinds, or None.

        The path is compared relative to the root of the application at `script_name`; the host is ignored.
        """
        try:
            path = urlsplit(url).path
        except ValueError:
            return None
        if not path.startswith(f"{script_name}/"):
            return None
        segments = path[len(script_name) :].split("/")
        for kind in kinds:
            for template in self.paths(self.kinds[kind]):
                if (keys := _match(template.split("/"), segments)) is not None:
                    return keys
        return None


def _match(template: list[str], segments: list[str]) -> dict[str, str] | None:
    if len(template) != len(segments):
        return None
    keys = {}
    for part, segment in zip(template, segments, strict=True):
        if part.startswith("{"):
            keys[part[1:-1]] = unquote(segment)
        elif part != segment:
            return None
    return keys


def walk_tree(
    node: type[Node], path: str = "", items_above: tuple[type[Node], ...] = ()
) -> Iterator[tuple[type[Node], str, tuple[type[Node], ...]]]:
    """All classes from `node` down, parents first, with their URL templates and their ancestor items, nearest first."""
    yield node, path, items_above
    for segment, child in node.branches():
        yield from walk_tree(child, f"{path}/{segment}", (node, *items_above) if node.key else items_above)

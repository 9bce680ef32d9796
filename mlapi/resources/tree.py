"""A tree of resources: its nodes, and the place of each class of node in it.

A class of node does not know where it stands. A `Tree` computes that from `children`, from the root down: the URL
template of each class, and the items above it. So classes can stand in several trees of one application, each mounted
under a prefix of its own and with an error shape of its own.
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
"""Makes the URL of a resource of a kind from its keys: `Node.link`."""

Access = tuple[str, str, tuple[str, ...]]
"""An entry of an access control list: Allow, a principal, the permissions."""


class TreeError(Exception):
    """A tree that cannot stand; the application does not start with it."""


class Node:
    """A resource; `children` maps the names of its fixed children to their classes."""

    children: ClassVar[Mapping[str, type[Node]]] = {}
    kind: ClassVar[str] = ""
    """The name by which links and references find this class in a tree; empty where nothing refers to it."""
    key: ClassVar[str] = ""
    """The name of this class's key in URL templates; empty for all but items."""
    public: ClassVar[bool] = False
    """Whether requests without an identity may come here."""

    tree: Tree

    def __init__(self, name: str, parent: Node | None, request: Request) -> None:
        self.__name__, self.__parent__, self.request = name, parent, request
        if parent is not None:
            self.tree = parent.tree

    @property
    def __acl__(self) -> list[Access]:
        """Who may do what with this resource and with all below it."""
        return []

    @property
    def keys(self) -> dict[str, Key]:
        """The keys of the items of the URL, down to this node."""
        return self.__parent__.keys if self.__parent__ is not None else {}

    @classmethod
    def branches(cls) -> Iterator[tuple[str, type[Node]]]:
        """The segments of URL templates below this class, with the class that each leads to."""
        yield from cls.children.items()

    @classmethod
    def settle(cls, tree: Tree) -> None:
        """Take this class's place in a tree that is complete; raises `TreeError` where it cannot stand there."""

    def __getitem__(self, name: str) -> Node:
        return self.children[name](name, self, self.request)

    def load(self) -> None:
        """Raise KeyError unless this node exists and the caller may see it."""
        if self.__parent__ is not None:
            self.__parent__.load()

    @reify
    def link(self) -> Linker:
        """Makes the URL of the resource of a kind, in this node's tree, with some keys."""
        return self.tree.linker(self.request.root_url)


Parent = TypeVar("Parent", bound=Node)


class Part(Node, Generic[Parent]):
    """A fixed part of an item, as its log or its cancellation."""

    @property
    def item(self) -> Parent:
        """The item that this is a part of."""
        return cast(Parent, self.__parent__)


@dataclass(frozen=True)
class Place:
    """Where the nodes of a class stand in a tree: the URL template, and the classes of the items above."""

    path: str
    items_above: tuple[type[Node], ...]
    aliases: list[str] = field(default_factory=list)
    """Further URL templates of the same items, as that of a flat collection."""


class Tree:
    """The places of all classes under a root. `prefix` is where the application mounts it.

    Raises `TreeError` for a class that stands in it twice, for two classes of one kind, and for an item that lacks a
    parent which its conditions need.
    """

    def __init__(self, root: type[Node], prefix: str = "", name: str = "mlapi", writer: Writer = write_problem) -> None:
        self.root, self.prefix, self.name, self.writer = root, prefix, name, writer
        self.places: dict[type[Node], Place] = {}
        self.kinds: dict[str, type[Node]] = {}
        self.statements: dict[object, Any] = {}
        """The SELECTs of items and lists in this tree, built at first use."""
        for node, path, items_above in walk_tree(root, prefix):
            self._add(node, Place(path, items_above))
        for node in self.places:
            node.settle(self)
        self._formats = {kind: self.places[node].path.format for kind, node in self.kinds.items()}

    def _add(self, node: type[Node], place: Place) -> None:
        if node in self.places:
            raise TreeError(f"{node.__name__} stands at {self.places[node].path} and at {place.path}.")
        if node.kind and node.kind in self.kinds:
            raise TreeError(f"{node.__name__} and {self.kinds[node.kind].__name__} are both of kind {node.kind!r}.")
        self.places[node] = place
        if node.kind:
            self.kinds[node.kind] = node

    def __call__(self, request: Request) -> Node:
        """The root of the tree, for one request."""
        root = self.root("", None, request)
        root.tree = self
        return root

    def path(self, kind: str, keys: Mapping[str, object]) -> str:
        """The URL path of the resource of this kind with these keys, relative to the application's root."""
        return self._formats[kind](**keys)

    def paths(self, node: type[Node]) -> list[str]:
        """The URL templates of a class: that of its place, and its aliases; none where the tree does not have it."""
        place = self.places.get(node)
        return [] if place is None else [place.path, *place.aliases]

    def linker(self, root_url: str) -> Linker:
        """A function that makes URLs from kinds and keys, for an application at `root_url`."""
        formats = self._formats

        def link(kind: str, /, **keys: object) -> Url:
            return root_url + formats[kind](**keys)

        return link

    def template(self, kind: str) -> str:
        """The URL template of the resources of this kind."""
        return self.places[self.kinds[kind]].path

    def match(self, url: str, kinds: tuple[str, ...], script_name: str = "") -> dict[str, str] | None:
        """The keys in a URL of a resource of one of these kinds, or None.

        Only the path counts, relative to the application's root at `script_name`, whichever host the URL names.
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
    """Every class under `node`, parents first, with its URL template and the items above it, the nearest first."""
    yield node, path, items_above
    for segment, child in node.branches():
        yield from walk_tree(child, f"{path}/{segment}", (node, *items_above) if node.key else items_above)

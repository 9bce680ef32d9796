"""The read rule: one condition on the caller, in the statement of each item and in every list of it."""

import pytest

from mlapi.http.request import Request
from mlapi.resources import TREE
from mlapi.resources.items import AcrossOwners, Collection, Item
from mlapi.resources.modules import ModuleFunction, ModuleItem, VersionItem
from mlapi.resources.queues import QueueItem
from mlapi.resources.workers import WorkerItem
from mlapi.security import RunnerIdentity, UserIdentity

ADMIN, USER, RUNNER = UserIdentity(1, "root", "admin"), UserIdentity(2, "ada", "user"), RunnerIdentity(3)

ITEMS = [node for node in TREE.places if issubclass(node, Item)]
COLLECTIONS = [node for node in TREE.places if issubclass(node, Collection)]
UNOWNED = (ModuleItem, VersionItem, ModuleFunction, QueueItem, WorkerItem)
"""Items that do not belong to a user: which of them a caller sees does not depend on its id."""


def node(kind, parent=None):
    """A node of the tree that nothing has loaded."""
    request = Request.blank("/")
    root = TREE(request)
    return kind("1", parent or root, request)


def names(statement):
    binds = {} if statement is None else statement.compile().binds
    return {name for name, bind in binds.items() if bind.required}


def sees_by_condition(kind, identity):
    """Whether the caller sees some of the rows, by a condition on its id."""
    return "caller" in kind.visible(identity).compile().params


def test_the_rule_differs_by_caller():
    assert len(ITEMS) > 8
    for kind in ITEMS:
        assert not sees_by_condition(kind, ADMIN), kind
        if not issubclass(kind, UNOWNED):
            assert sees_by_condition(kind, USER) != sees_by_condition(kind, RUNNER), kind


@pytest.mark.parametrize("identity", [ADMIN, USER, RUNNER], ids=lambda identity: identity.role)
@pytest.mark.parametrize("kind", ITEMS, ids=lambda kind: kind.__name__)
def test_the_statement_of_an_item_has_the_rule(kind, identity):
    statement = node(kind)._statement(identity)
    assert ("caller" in names(statement)) == sees_by_condition(kind, identity)
    assert (statement is None) == (str(kind.visible(identity)) == "false")


@pytest.mark.parametrize("identity", [ADMIN, USER, RUNNER], ids=lambda identity: identity.role)
@pytest.mark.parametrize("kind", COLLECTIONS, ids=lambda kind: kind.__name__)
def test_the_statement_of_a_list_has_the_rule(kind, identity):
    statement = node(kind)._query(identity, (), continued=False, short=True, lateral=False).statement
    assert ("caller" in names(statement)) == sees_by_condition(kind.item, identity)
    assert ("parent" in names(statement)) == (kind.tied_by is not None)


def test_only_the_end_of_a_walk_is_tested():
    for kind in ITEMS:
        text = str(node(kind)._statement(USER))
        assert text.count(":caller") == int(sees_by_condition(kind, USER)), kind


def test_a_flat_item_is_found_by_its_own_key_alone():
    for collection in COLLECTIONS:
        if issubclass(collection, AcrossOwners):
            item = node(collection.item, node(collection))
            assert names(item._statement(USER)) == {"caller", collection.item.key}
            assert names(item._statement(ADMIN)) == {collection.item.key}

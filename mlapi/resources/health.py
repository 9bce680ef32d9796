"""Health: the resources that probes ask, outside the API."""

from mlapi.resources.tree import Node


class Live(Node):
    """Whether the process answers."""

    public = True


class Ready(Node):
    """Whether all parts of the service can do their work."""

    public = True


class Health(Node):
    """The health of the service."""

    children = {"live": Live, "ready": Ready}

"""The tree: what there is, under which name, and who may touch it.

    /api/v1
    ├── auth/token                    …/refresh
    ├── users/{user}
    │   ├── files/{file}              …/content
    │   └── pipelines/{pipeline}
    │       ├── tasks/{task}
    │       └── runs/{run}            …/cancel
    │           └── jobs/{job}        …/log, …/cancel
    ├── modules/{module}
    │   ├── functions/{function}      of the newest version
    │   └── versions/{version}
    │       └── functions/{function}
    ├── attempts/{attempt}            …/heartbeat, …/log, …/module, …/inputs/{input}, …/outputs, …/report
    └── files, pipelines, runs, jobs  search, of what the caller may see

`children` of each class says what is under it; URL templates and the SELECT that finds a node come from that.
"""

from typing import Any

from pyramid.authorization import Allow
from pyramid.httpexceptions import HTTPNotFound

from mlapi.resources.attempts import Attempts
from mlapi.resources.auth import Auth, Refresh, Token
from mlapi.resources.base import Node, must_be_known, place
from mlapi.resources.files import AllFiles
from mlapi.resources.jobs import AllJobs
from mlapi.resources.modules import Modules
from mlapi.resources.pipelines import AllPipelines
from mlapi.resources.runs import AllRuns
from mlapi.resources.users import Users
from mlapi.security import Permission


class Version1(Node):
    """The first version of the API."""

    children = {
        "auth": Auth,
        "users": Users,
        "modules": Modules,
        "attempts": Attempts,
        "files": AllFiles,
        "pipelines": AllPipelines,
        "runs": AllRuns,
        "jobs": AllJobs,
    }


class Api(Node):
    """The versions of the API."""

    children = {"v1": Version1}


class Root(Node):
    """Where every walk begins. Admins may do everything, but speak for no attempt."""

    __acl__ = [(Allow, "role:admin", (Permission.READ, Permission.WRITE, Permission.REGISTER))]
    children = {"api": Api}

    def __init__(self, request: Any) -> None:
        super().__init__("", None, request)


NODES = tuple(place(Root))
"""Every class of the tree, parents first."""


OPEN = (Root, Version1, Token, Refresh)
"""Where anybody may come; elsewhere nobody is not even told what is there."""


def arrive(event: Any) -> None:
    """Load what a walk came to; what is not there, or not for the caller, is not found."""
    context = event.request.context
    if isinstance(context, Node):
        if not isinstance(context, OPEN):
            must_be_known(event.request)
        try:
            context.load()
        except KeyError:
            raise HTTPNotFound() from None


def includeme(config: Any) -> None:
    """Make the tree the application's."""
    config.set_root_factory(Root)
    config.add_subscriber(arrive, "pyramid.events.ContextFound")
    config.add_request_method(lambda request: request.application_url, "root_url", reify=True)

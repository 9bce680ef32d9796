"""Exception views: the response to every exception is a problem."""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPException

from mlapi.http.problems import respond


def includeme(config: Configurator) -> None:
    """Register the exception views."""
    config.add_exception_view(respond, context=Exception)
    # Pyramid has a view of its own for HTTP exceptions, which is more specific than the one for all exceptions.
    config.add_exception_view(respond, context=HTTPException)

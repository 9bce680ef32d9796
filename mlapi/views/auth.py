"""Tokens: obtain, refresh."""

from typing import Any

from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.security import NO_PERMISSION_REQUIRED

from mlapi.resources.auth import Refresh, Token
from mlapi.schemas.auth import Credentials, RefreshToken
from mlapi.security import Use, log_in, user_exists
from mlapi.service import Expects, Service

token, refresh = Service(Token), Service(Refresh)


@token.post(permission=NO_PERMISSION_REQUIRED, schema=Expects(body=Credentials()))
def obtain(_token: Token, request: Any) -> dict[str, Any]:
    """Change a name and a password for an access token and a refresh token."""
    user = log_in(request, **request.validated["body"])
    if user is None:
        raise HTTPUnauthorized("There is no user with this name and password.")
    return tokens(user, request)


@refresh.post(permission=NO_PERMISSION_REQUIRED, schema=Expects(body=RefreshToken()))
def renew(_refresh: Refresh, request: Any) -> dict[str, Any]:
    """Change a refresh token for a new access token and a new refresh token."""
    told = request.registry.tokens.read(request, request.validated["body"]["refresh_token"], Use.REFRESH)
    if told is None or not user_exists(request.db, told[0]):
        raise HTTPUnauthorized("The refresh token is not good, or not any more.")
    return tokens(told[0], request)


def tokens(user: int, request: Any) -> dict[str, Any]:
    """New tokens of a user, and for how many seconds they are good."""
    settings, make = request.registry.mlapi, request.registry.tokens.make
    return {
        "token_type": "Bearer",
        "access_token": make(user, Use.ACCESS, settings.access_token_lifetime),
        "expires_in": settings.access_token_lifetime,
        "refresh_token": make(user, Use.REFRESH, settings.refresh_token_lifetime),
        "refresh_expires_in": settings.refresh_token_lifetime,
    }

"""Authentication: obtain and refresh tokens."""

from typing import TypedDict

from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.security import NO_PERMISSION_REQUIRED

from mlapi.http.request import Request
from mlapi.resources.auth import Refresh, Token
from mlapi.schemas.auth import Credentials, RefreshToken
from mlapi.security import Use, authenticate, user_exists
from mlapi.service import Expects, Service

token, refresh = Service(Token), Service(Refresh)


class TokensDocument(TypedDict):
    """An access token and a refresh token, each with its lifetime in seconds."""

    token_type: str
    access_token: str
    expires_in: float
    refresh_token: str
    refresh_expires_in: float


@token.post(permission=NO_PERMISSION_REQUIRED, schema=Expects(body=Credentials()))
def obtain(_token: Token, request: Request) -> TokensDocument:
    """Exchange a name and a password for an access token and a refresh token."""
    user = authenticate(request, **request.validated["body"])
    if user is None:
        raise HTTPUnauthorized("Wrong name or password.")
    return tokens(user, request)


@refresh.post(permission=NO_PERMISSION_REQUIRED, schema=Expects(body=RefreshToken()))
def renew(_refresh: Refresh, request: Request) -> TokensDocument:
    """Exchange a refresh token for a new access token and a new refresh token."""
    claims = request.tokens.read(request, request.validated["body"]["refresh_token"], Use.REFRESH)
    if claims is None or not user_exists(request, claims[0]):
        raise HTTPUnauthorized("The refresh token is invalid or has expired.")
    return tokens(claims[0], request)


def tokens(user: int, request: Request) -> TokensDocument:
    """New tokens of a user."""
    settings, make = request.settings, request.tokens.make
    return {
        "token_type": "Bearer",
        "access_token": make(user, Use.ACCESS, settings.access_token_lifetime),
        "expires_in": settings.access_token_lifetime,
        "refresh_token": make(user, Use.REFRESH, settings.refresh_token_lifetime),
        "refresh_expires_in": settings.refresh_token_lifetime,
    }

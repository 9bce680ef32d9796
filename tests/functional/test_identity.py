"""Authentication: passwords, tokens, hosts, and the headers of all responses."""

import base64
import hashlib
import hmac
import json
import string
import time

import jwt
import pytest
import sqlalchemy as sa
from pyramid.config import Configurator
from pyramid.paster import get_app
from pyramid.security import NO_PERMISSION_REQUIRED
from webtest import TestApp

from mlapi.http.guard import HEADERS
from mlapi.models import User
from mlapi.security import Passwords, Use
from mlapi.settings import Settings, SettingsError
from tests.support import API, HOST, PASSWORD, Client, is_problem
from tests.work import count_calls

TOKEN, REFRESH = f"{API}/auth/token", f"{API}/auth/token/refresh"


@pytest.fixture
def key(wsgi):
    return wsgi.registry.mlapi.secret_key


@pytest.fixture
def ada_id(ada, db):
    user = db.scalar(sa.select(User.id).where(User.name == "ada"))
    db.rollback()  # SQLite has one writer at a time.
    return user


def encoded(part):
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(key, header=None, digest=hashlib.sha256, **claims):
    """A token with exactly these claims, without validation; claims that are None are omitted."""
    now = int(time.time())
    payload = {"sub": "1", "typ": "access", "iat": now, "exp": now + 60, **claims}
    body = ", ".join(
        f"{json.dumps(name)}: {value.decode() if isinstance(value, bytes) else json.dumps(value)}"
        for name, value in payload.items()
        if value is not None
    )
    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT'} | (header or {}))}.{encoded(f'{{{body}}}'.encode())}"
    return f"{text}.{encoded(hmac.new(key.encode(), text.encode(), digest).digest())}"


def unsigned(token, alg):
    payload = token.split(".")[1]
    return f"{encoded({'alg': alg, 'typ': 'JWT'})}.{payload}."


def respelled(token):
    """The same bytes in another Base64 text: two bits of the last character have no meaning."""
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    return token[:-1] + letters[letters.index(token[-1]) ^ 1]


HOSTILE = {
    "no algorithm": lambda key, good, user: unsigned(good, "none"),
    "no algorithm, capital": lambda key, good, user: unsigned(good, "None"),
    "no algorithm, mixed case": lambda key, good, user: unsigned(good, "nOnE"),
    "an algorithm of null": lambda key, good, user: unsigned(good, None),
    "no signature": lambda key, good, user: good.rpartition(".")[0] + ".",
    "two parts": lambda key, good, user: good.rpartition(".")[0],
    "four parts": lambda key, good, user: good + ".e30",
    "another key": lambda key, good, user: signed("x" * 64, sub=user),
    "no key": lambda key, good, user: signed("", sub=user),
    "a key that it brings": lambda key, good, user: signed(
        "x" * 64, {"jwk": {"kty": "oct", "k": encoded(b"x" * 64)}}, sub=user
    ),
    "a key file": lambda key, good, user: signed("", {"kid": "../../../../dev/null"}, sub=user),
    "HS512": lambda key, good, user: signed(key, {"alg": "HS512"}, hashlib.sha512, sub=user),
    "HS384 called HS256": lambda key, good, user: signed(key, None, hashlib.sha384, sub=user),
    "RS256": lambda key, good, user: signed(key, {"alg": "RS256"}, sub=user),
    "a header that must be understood": lambda key, good, user: signed(key, {"crit": ["x"], "x": 1}, sub=user),
    "a payload elsewhere": lambda key, good, user: signed(key, {"b64": False, "crit": ["b64"]}, sub=user),
    "no end": lambda key, good, user: signed(key, sub=user, exp=None),
    "no beginning": lambda key, good, user: signed(key, sub=user, iat=None),
    "no subject": lambda key, good, user: signed(key, sub=None),
    "no use": lambda key, good, user: signed(key, sub=user, typ=None),
    "another use": lambda key, good, user: signed(key, sub=user, typ="admin"),
    "a list of uses": lambda key, good, user: signed(key, sub=user, typ=["access"]),
    "an object as use": lambda key, good, user: signed(key, sub=user, typ={"access": 1}),
    "a refresh token": lambda key, good, user: signed(key, sub=user, typ="refresh"),
    "an integer subject": lambda key, good, user: signed(key, sub=int(user)),
    "a list of subjects": lambda key, good, user: signed(key, sub=[user]),
    "a negative subject": lambda key, good, user: signed(key, sub=f"-{user}"),
    "Arabic digits": lambda key, good, user: signed(key, sub=user.translate({48 + n: 0x660 + n for n in range(10)})),
    "superscript digits": lambda key, good, user: signed(key, sub="²"),
    "a blank before the subject": lambda key, good, user: signed(key, sub=f" {user}"),
    "a subject beyond 64 bits": lambda key, good, user: signed(key, sub="9" * 30),
    "subject 0": lambda key, good, user: signed(key, sub="0"),
    "a name as subject": lambda key, good, user: signed(key, sub="ada"),
    "over": lambda key, good, user: signed(key, sub=user, exp=int(time.time()) - 60),
    "a textual end": lambda key, good, user: signed(key, sub=user, exp=str(int(time.time()) + 60)),
    "a fractional end": lambda key, good, user: signed(key, sub=user, exp=time.time() + 60.5),
    "a negative end": lambda key, good, user: signed(key, sub=user, exp=-1),
    "an end of true": lambda key, good, user: signed(key, sub=user, exp=True),
    "an end beyond floats": lambda key, good, user: signed(key, sub=user, exp=b"1e400"),
    "an end of NaN": lambda key, good, user: signed(key, sub=user, exp=b"NaN"),
    "a beginning beyond floats": lambda key, good, user: signed(key, sub=user, iat=b"1e400"),
    "a beginning to come": lambda key, good, user: signed(key, sub=user, iat=int(time.time()) + 600),
    "not before infinity": lambda key, good, user: signed(key, sub=user, nbf=b"1e400"),
    "for somebody else": lambda key, good, user: signed(key, sub=user, aud="other"),
    "another spelling of the signature": lambda key, good, user: respelled(good),
    "trailing bytes": lambda key, good, user: good + "AAAA",
    "a trailing stop": lambda key, good, user: good + ".",
    "trailing padding": lambda key, good, user: good + "==",
    "trailing punctuation": lambda key, good, user: good + "!!",
    "100 KB": lambda key, good, user: signed(key, sub=user, more="x" * 100_000),
    "100 KB of nothing": lambda key, good, user: "a" * 100_000,
    "nested lists": lambda key, good, user: signed(key, sub=user, more=b"[" * 1000 + b"]" * 1000),
    "not JSON": lambda key, good, user: f"{encoded(b'{')}.{encoded(b'{')}.AAAA",
    "a list": lambda key, good, user: signed(key).replace(signed(key).split(".")[1], encoded(b"[]")),
    "no token": lambda key, good, user: "",
    "not ASCII": lambda key, good, user: "é.é.é",
    "two tokens": lambda key, good, user: f"{good} {good}",
    "a token and a comma": lambda key, good, user: f"{good},{good}",
}
"""Forged tokens, as functions of the key, a valid token and the id of the user."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_token_does_not_authenticate(name, app, ada, ada_id, key, nobody):
    token = HOSTILE[name](key, signed(key, sub=str(ada_id)), str(ada_id))
    hostile = Client(app, token=token)
    hostile.headers = {"Authorization": f"Bearer {token}"}
    for path in ("users/ada", "files", "attempts/1"):
        answer = hostile("GET", path)
        is_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mlapi"'
        assert (answer.body, answer.headerlist) == ((known := nobody("GET", path)).body, known.headerlist)


def test_a_token_of_the_service_is_valid(app, ada, ada_id, key):
    assert Client(app, token=signed(key, sub=str(ada_id)))("GET", "users/ada").status_int == 200
    ignored = signed(key, {"kid": "x", "jku": "http://127.0.0.1/keys"}, sub=str(ada_id))
    assert Client(app, token=ignored)("GET", "users/ada").status_int == 200


@pytest.mark.parametrize(
    ("scheme", "status"),
    [
        ("Bearer", 200),
        ("bearer", 200),
        ("BEARER", 200),
        ("JWT", 401),
        ("Basic", 401),
        ("Token", 401),
        ("", 401),
    ],
)
def test_tokens_are_sent_as_bearer_tokens(scheme, status, ada, nobody):
    token = ada.headers["Authorization"].split()[1]
    assert nobody("GET", "files", headers={"Authorization": f"{scheme} {token}"}).status_int == status


@pytest.mark.parametrize("place", ["?access_token={}", "?token={}"])
def test_a_token_in_the_url_is_ignored(place, ada, nobody):
    token = ada.headers["Authorization"].split()[1]
    is_problem(nobody("GET", "files" + place.format(token)), 401)


def test_a_token_in_a_cookie_is_ignored(ada, nobody):
    token = ada.headers["Authorization"].split()[1]
    is_problem(nobody("GET", "files", headers={"Cookie": f"token={token}; Authorization={token}"}), 401)


def test_a_token_expires(app, ada, ada_id, key):
    leeway = 5
    client = Client(app, token=signed(key, sub=str(ada_id), exp=int(time.time()) - leeway + 2))
    assert client("GET", "users/ada").status_int == 200
    time.sleep(2.1)
    is_problem(client("GET", "users/ada"), 401)


@pytest.mark.parametrize("ahead", [30, 50])
def test_a_token_of_a_machine_whose_clock_is_ahead_is_valid(ahead, app, ada, ada_id, key):
    now = int(time.time()) + ahead
    token = signed(key, sub=str(ada_id), iat=now, nbf=now, exp=now + 3600)
    assert Client(app, token=token)("GET", "users/ada").status_int == 200


class TestLogin:
    """A name and a password are exchanged for tokens."""

    def test_returns_tokens_with_their_lifetimes(self, ada, ada_id, nobody, key):
        answer = nobody("POST", TOKEN, {"name": "ada", "password": PASSWORD}, status=200).json
        assert (answer["token_type"], answer["expires_in"], answer["refresh_expires_in"]) == (
            "Bearer",
            3600,
            86400,
        )
        for name, use, lifetime in (("access_token", "access", 3600), ("refresh_token", "refresh", 86400)):
            claims = jwt.decode(answer[name], key, algorithms=["HS256"])
            assert claims == {"sub": str(ada_id), "typ": use, "iat": claims["iat"], "exp": claims["exp"]}
            assert claims["exp"] - claims["iat"] == lifetime
            assert abs(claims["iat"] - time.time()) < 5

    def test_has_the_same_response_to_an_unknown_name_and_a_wrong_password(self, ada, nobody):
        wrong = nobody("POST", TOKEN, {"name": "ada", "password": "not her password"})
        unknown = nobody("POST", TOKEN, {"name": "nobody", "password": PASSWORD})
        is_problem(wrong, 401)
        assert (wrong.status, wrong.body, wrong.headerlist) == (
            unknown.status,
            unknown.body,
            unknown.headerlist,
        )
        assert "WWW-Authenticate" in wrong.headers

    @pytest.mark.parametrize("password", [PASSWORD.upper(), PASSWORD + " ", PASSWORD[:-1], "x" * 256])
    def test_accepts_no_other_password(self, password, ada, nobody):
        is_problem(nobody("POST", TOKEN, {"name": "ada", "password": password}), 401)

    @pytest.mark.parametrize("name", ["Ada", "ada ", "\uff41\uff44\uff41", "' OR 1=1 --", "%"])
    def test_accepts_no_other_name(self, name, ada, nobody):
        is_problem(nobody("POST", TOKEN, {"name": name, "password": PASSWORD}), 401)

    def test_ignores_a_forged_token_in_the_header(self, ada, nobody):
        credentials = {"name": "ada", "password": PASSWORD}
        assert nobody("POST", TOKEN, credentials, headers={"Authorization": "Bearer x"}).status_int == 200


class TestRefresh:
    """A refresh token is exchanged for new tokens."""

    @pytest.fixture
    def tokens(self, ada, nobody):
        return nobody("POST", TOKEN, {"name": "ada", "password": PASSWORD}, status=200).json

    def test_returns_valid_tokens(self, tokens, nobody, app):
        fresh = nobody("POST", REFRESH, {"refresh_token": tokens["refresh_token"]}, status=200).json
        assert fresh.keys() == tokens.keys()
        assert Client(app, token=fresh["access_token"])("GET", "users/ada").status_int == 200
        assert nobody("POST", REFRESH, {"refresh_token": fresh["refresh_token"]}).status_int == 200

    @pytest.mark.parametrize("use", [Use.ACCESS, Use.JOB])
    def test_accepts_no_token_for_another_use(self, use, ada_id, nobody, wsgi):
        token = wsgi.registry.tokens.make(ada_id, use, 60)
        answer = nobody("POST", REFRESH, {"refresh_token": token})
        is_problem(answer, 401)
        assert "WWW-Authenticate" in answer.headers

    def test_accepts_no_token_of_another_key(self, ada_id, nobody):
        token = signed("x" * 64, sub=str(ada_id), typ="refresh")
        is_problem(nobody("POST", REFRESH, {"refresh_token": token}), 401)

    def test_accepts_no_expired_token(self, ada_id, nobody, wsgi):
        is_problem(
            nobody("POST", REFRESH, {"refresh_token": wsgi.registry.tokens.make(ada_id, Use.REFRESH, -9)}),
            401,
        )


def test_tokens_of_a_deleted_user_are_invalid(ada, ada_id, nobody, db):
    tokens = nobody("POST", TOKEN, {"name": "ada", "password": PASSWORD}, status=200).json
    db.execute(sa.delete(User).where(User.id == ada_id))
    db.commit()
    gone, stranger = ada("GET", "users/ada"), nobody("GET", "users/ada")
    assert (gone.status_int, gone.body) == (401, stranger.body)
    is_problem(nobody("POST", REFRESH, {"refresh_token": tokens["refresh_token"]}), 401)


def test_a_change_of_role_takes_effect_immediately(ada, bob, ada_id, db):
    is_problem(ada("GET", "users/bob"), 404)
    db.execute(sa.update(User).where(User.id == ada_id).values(role="admin"))
    db.commit()
    assert ada("GET", "users/bob").status_int == 200


class TestPasswords:
    """Passwords are long, and stored as argon2id hashes."""

    def test_are_stored_as_argon2id_hashes(self, root, db):
        for name in ("one", "two"):
            root("POST", "users", {"name": name, "password": PASSWORD}, status=201)
        hashes = set(db.scalars(sa.select(User.password_hash).where(User.name.in_(["one", "two"]))))
        assert len(hashes) == 2
        assert all(each.startswith("$argon2id$v=19$") for each in hashes)

    def test_have_the_cost_of_the_settings(self, tmp_path):
        made = Passwords(Settings.read({"mlapi.data_dir": str(tmp_path)}, {})).hash(PASSWORD)
        assert made.startswith("$argon2id$v=19$m=65536,t=3,p=1$")

    @pytest.mark.parametrize(("length", "status"), [(1, 422), (14, 422), (15, 201), (256, 201), (257, 422)])
    def test_have_15_to_256_characters(self, length, status, root):
        body = {"name": "one", "password": "é" * length}
        answer = root("POST", "users", body)
        assert answer.status_int == status
        if status == 422:
            is_problem(answer, 422, "password")
        else:
            credentials = {"name": "one", "password": "é" * length}
            assert root("POST", TOKEN, credentials).status_int == 200

    def test_are_in_no_response(self, root):
        made = root("POST", "users", {"name": "one", "password": PASSWORD}, status=201)
        shown = root("GET", "users/one", status=200)
        assert made.json.keys() == shown.json.keys() == {"name", "url", "role", "created", "files", "pipelines"}

    def test_take_the_same_work_without_a_user(self, tmp_path):
        ini = {"mlapi.data_dir": str(tmp_path), "mlapi.password_memory": "64"}
        passwords = Passwords(Settings.read(ini, {}))
        kept = passwords.hash(PASSWORD)
        passwords.verify(None, "x")
        with_user, without = (count_calls(lambda each=each: passwords.verify(each, "x" * 15)) for each in (kept, None))
        assert with_user == without
        assert with_user[1] > 5


class TestSecret:
    """The key that signs tokens is long and random, or the service does not start."""

    @pytest.mark.parametrize("secret", ["x", "secret", "a" * 64, "abcdefg" * 9, "0123456789abcdef" + "0" * 15])
    def test_a_weak_one_is_rejected_at_start(self, secret, ini, tmp_path):
        weak = tmp_path / "weak.ini"
        text = ini.read_text().replace("use = egg:mlapi\n", f"use = egg:mlapi\nmlapi.secret_key = {secret}\n", 1)
        weak.write_text(text)
        with pytest.raises(SettingsError, match="secret_key"):
            get_app(str(weak))

    def test_one_is_generated_if_none_is_set(self, tmp_path):
        ini = {"mlapi.data_dir": str(tmp_path)}
        first = Settings.read(ini, {}).secret_key
        assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600
        assert len(first) >= 64
        assert Settings.read(ini, {}).secret_key == first
        assert Settings.read({"mlapi.data_dir": str(tmp_path / "other")}, {}).secret_key != first


class TestHost:
    """The service accepts only allowed hosts."""

    @pytest.mark.parametrize(
        "host", ["localhost", "localhost:6543", "LOCALHOST:80", "127.0.0.1:1", "[::1]:6543", "[::1]"]
    )
    def test_allowed_hosts_are_accepted(self, host, ada):
        assert ada("GET", "files", headers={"Host": host}).status_int == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "localhost.evil.example",
            "evil.example:6543",
            "localhost@evil.example",
            "",
            "[::2]:6543",
            "*",
        ],
    )
    def test_other_hosts_are_rejected_even_with_a_valid_token(self, host, ada):
        is_problem(ada("GET", "files", headers={"Host": host}), 400)

    @pytest.mark.parametrize(
        "header", ["X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-Host", "X-Forwarded-Proto"]
    )
    def test_headers_of_proxies_are_not_trusted(self, header, ada):
        value = "host=evil.example" if header == "Forwarded" else "evil.example"
        page = ada("GET", "users/ada", headers={header: value}, status=200)
        assert page.json["url"] == f"http://{HOST}{API}/users/ada"


@pytest.fixture
def broken(ini, app):
    """The application with a view that raises an unexpected exception."""
    made = get_app(str(ini))
    config = Configurator(registry=made.registry)
    config.add_route("broken", "/broken")
    config.add_view(lambda request: 1 / len(()), route_name="broken", permission=NO_PERMISSION_REQUIRED)
    config.commit()
    yield TestApp(made, extra_environ={"HTTP_HOST": HOST})
    made.registry.database.engine.dispose()


def test_every_response_has_the_security_headers(ada, root, nobody, broken):
    file = ada.upload("a.txt", b"Ada", status=201)
    answers = {
        200: ada("GET", "files"),
        201: file,
        206: ada("GET", file.json["content"], headers={"Range": "bytes=0-1"}),
        304: ada("GET", file.json["content"], headers={"If-None-Match": f'"{file.json["sha256"]}"'}),
        400: ada("GET", "files", headers={"Host": "evil.example"}),
        401: nobody("GET", "files"),
        403: ada("POST", "users", {"name": "x", "password": PASSWORD}),
        404: ada("GET", "/no/such/place"),
        405: ada("PATCH", "files"),
        409: root("POST", "users", {"name": "ada", "password": PASSWORD}),
        415: ada("POST", "users/ada/pipelines"),
        416: ada("GET", file.json["content"], headers={"Range": "bytes=99-"}),
        422: ada("GET", "files?limit=0"),
        500: broken.get("/broken", status="*"),
    }
    for status, answer in answers.items():
        assert answer.status_int == status
        for name in ("X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Resource-Policy", "Vary"):
            assert answer.headers.getall(name) == [HEADERS[name]], (status, name)
        assert answer.headers["Content-Security-Policy"].count("default-src 'none'") == 1, status
        assert "no-store" in answer.headers["Cache-Control"] or status in (200, 206, 304), status
        assert not set(answer.headers.keys()) & {"Set-Cookie", "Access-Control-Allow-Origin", "X-Powered-By"}


def test_internal_errors_are_only_in_the_log(broken, caplog):
    problem = is_problem(broken.get("/broken", status=500), 500)
    assert "division" not in json.dumps(problem)
    assert problem["incident"] in caplog.text
    assert "division" in caplog.text

"""Users: list, create, show."""

from mlapi.http.request import Request
from mlapi.models import users as rules
from mlapi.resources.users import UserDocument, UserItem, Users
from mlapi.schemas.users import NewUser
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

users, user = Service(Users), Service(UserItem)

users.get(permission=Permission.READ, schema=answers.listing(Users))(answers.page)
user.get(permission=Permission.READ)(answers.show)


@users.post(permission=Permission.WRITE, schema=Expects(body=NewUser()))
def create(users: Users, request: Request) -> UserDocument:
    """Create a user with a name, a password and a role."""
    body = request.validated["body"]
    request.pause_transaction()  # Hashing takes 0.1 s, during which others can write.
    with request.slow_work():
        password_hash = request.passwords.hash(body["password"])
    rules.create(request.db, body["name"], password_hash, body["role"])
    return answers.created(users[body["name"]], request)

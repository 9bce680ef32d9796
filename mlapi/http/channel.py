"""Connections of the server: waitress' channel, with early refusal, problem documents, and a drain.

- A request with a large body is refused from its head (`mlapi.http.heads`) if the application would refuse it.
- The errors that waitress finds itself, such as a malformed head, are problem documents as well.
- After an error, the connection is closed in two steps, so that a client that is still sending receives the response.
- While the server drains, responses close their connections.
"""

import copy
import socket
import sys
import time
from collections.abc import Callable
from typing import Protocol

from pyramid.response import Response
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import (
    BadRequest,
    Error,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    ServerNotImplemented,
)

from mlapi.http import heads
from mlapi.http.guard import secured
from mlapi.http.problems import Problem, response_of, shortened

FREE = 64 * 1024
"""Size of a body in bytes up to which it is received before the application is called."""

CHUNK_HEAD = 8 * 1024
"""Maximum size in bytes of the head of a chunk, and of the trailer of a chunked body."""

DISCARDED = 16 * 1024 * 1024
"""Bytes that a client may send after it was refused, before its connection is reset."""


class Draining(Protocol):
    """The part of the server that its connections use."""

    draining: bool


class Refusal(Error):
    """The application's response to the head of a request."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Parser(HTTPRequestParser):
    """A request while it is received: waitress' parser, with a limit of the body and of the heads of its chunks."""

    accepted = False
    """Whether the application has accepted the head."""
    limit = sys.maxsize
    """The maximum size of the body in bytes."""
    continues = False
    """Whether the client waits for "100 Continue" before it sends a large body."""

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head. Raises `ParsingError`."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # Of int() and urlsplit(), which waitress does not expect.
            raise ParsingError(str(error)) from None
        if self.body_rcv is None:
            self.expect_continue = False  # waitress would wait for a body that never comes.
        elif self.chunked or self.content_length > FREE:
            self.continues, self.expect_continue = self.expect_continue, False

    def received(self, data: bytes) -> int:
        """Receive a part of the request; returns the number of bytes that belong to it."""
        consumed = int(super().received(data))
        if self.chunked and not self.completed:
            if len(self.body_rcv.control_line) + len(self.body_rcv.trailer) > CHUNK_HEAD:
                self._refuse(BadRequest("The head of a chunk is too long"))
            elif len(self.body_rcv) > self.limit:
                self._refuse(RequestEntityTooLarge(""))
        return consumed

    def _refuse(self, error: Error) -> None:
        self.error, self.completed = error, True

    @property
    def undecided(self) -> bool:
        """Whether the application must decide by the head before more of the body is received."""
        if self.accepted or self.completed or not self.headers_finished:
            return False
        return self.content_length > FREE or (self.chunked and (self.continues or len(self.body_rcv) > FREE))

    def accept(self, limit: int) -> None:
        """Receive the body, up to a limit in bytes."""
        self.accepted, self.limit = True, limit

    @property
    def head(self) -> "Parser":
        """A copy of the request without its body."""
        head = copy.copy(self)
        head.body_rcv = None
        return head


class Task(WSGITask):
    """The execution of a request, whose response closes the connection while the server drains."""

    def build_response_header(self) -> bytes:
        """Return the head of the response."""
        if self.channel.owner.draining:
            self.set_close_on_finish()
        return bytes(super().build_response_header())


WORDS: dict[type[Error], Callable[[Error, int, int], str]] = {
    RequestHeaderFieldsTooLarge: lambda _error, head, _body: f"The head of a request must have at most {head} bytes.",
    RequestEntityTooLarge: lambda _error, _head, body: f"The body must have at most {body} bytes.",
    BadRequest: lambda error, _head, _body: f"Malformed request: {shortened(error.body, 200)}.",
    ServerNotImplemented: lambda _error, _head, _body: "Transfer coding not supported: expected chunked.",
    Error: lambda _error, _head, _body: "Internal error.",
}
"""The detail of the problem of an error of waitress, from the error and the limits of heads and bodies."""


class ProblemTask(ErrorTask):
    """The response to an error that the server found itself: a problem document."""

    def execute(self) -> None:
        """Write the response."""
        response = self._response()
        self.status = response.status
        self.response_headers.extend(response.headerlist)
        self.set_close_on_finish()
        self.content_length = len(response.body)
        self.write(b"" if getattr(self.request, "command", "") == "HEAD" else response.body)

    def _response(self) -> Response:
        error = self.request.error
        if isinstance(error, Refusal):
            return error.response
        words = next(WORDS[kind] for kind in type(error).__mro__ if kind in WORDS)
        detail = words(error, self.channel.adj.max_request_header_size - 1, self.request.limit)
        return secured(response_of(Problem(error.code, detail)))


class Judgement:
    """A task of the server's threads: the decision of the application about the head of a request."""

    def __init__(self, channel: "Channel", request: Parser) -> None:
        self.channel, self.request = channel, request

    def service(self) -> None:
        """Decide."""
        self.channel.judge(self.request)

    def cancel(self) -> None:
        """Close the connection."""
        self.channel.cancel()


class Channel(HTTPChannel):
    """A connection with a client."""

    parser_class = Parser
    task_class = Task
    error_task_class = ProblemTask
    request: Parser | None = None
    close_when_flushed: bool = False

    def __init__(self, owner: Draining, *arguments: object, **options: object) -> None:
        self.owner = owner
        self.judging = False
        self.refused = False
        self.discarding: int | None = None
        """The number of bytes still to be discarded, after the response to an error."""
        super().__init__(*arguments, **options)

    @property
    def idle(self) -> bool:
        """Whether the client has neither sent a part of a request nor waits for a response."""
        return self.request is None and not self.requests and not self.judging and not self.total_outbufs_len

    def received(self, data: bytes) -> bool:
        """Receive a part of a request; a complete request is executed, a large body needs a decision first."""
        accepted = bool(super().received(data))
        self._judge_if_undecided()
        return accepted

    def service(self) -> None:
        """Execute the first request; a task of the server's threads."""
        self.refused = self.requests[0].error is not None
        super().service()
        self._judge_if_undecided()

    def _judge_if_undecided(self) -> None:
        """Have the application decide about a request, unless others come before it."""
        with self.requests_lock:
            closing = self.will_close or self.close_when_flushed
            if closing or self.judging or self.requests or self.request is None or not self.request.undecided:
                return
            self.judging = True
            self.server.add_task(Judgement(self, self.request))

    def judge(self, request: Parser) -> None:
        """Call the application with the head of a request; receives the body, or refuses the request."""
        response, limit = self._ask(request.head)
        with self.requests_lock:
            self.judging = False
            if self.request is not request:  # Its last bytes came in the meantime; it is executed as it is.
                return
            if limit is not None:
                request.accept(limit)
                if request.continues:
                    self.send_continue()
            else:
                request.error, request.completed = Refusal(response), True
                self.requests.append(request)
                self.request = None
        self.last_activity = time.time()
        if limit is None:
            self.service()
        elif self.connected:
            self.server.pull_trigger()

    def _ask(self, head: Parser) -> tuple[Response, int | None]:
        try:
            return heads.ask(self.server.application, Task(self, head).get_environment())
        except Exception:
            self.logger.exception("Exception while judging %s", head.path)
            return secured(response_of(Problem(500, "Internal error."))), None

    def _flush_some(self, do_close: bool = True) -> bool:
        """Send what is to be sent; returns whether anything was.

        waitress takes no lock in the thread of the server while no request is executed: but a decision may send
        "100 Continue" from another thread then, which would be sent twice.
        """
        with self.outbuf_lock:
            return bool(super()._flush_some(do_close))

    def readable(self) -> bool:
        """Whether to wait for bytes of the client."""
        if self.discarding is not None:
            return not self.will_close
        return not self.judging and bool(super().readable())

    def handle_read(self) -> None:
        """Receive bytes, or discard them after an error."""
        if self.discarding is None:
            super().handle_read()
            return
        data = self.recv(FREE)  # Closes the connection at its end.
        self.discarding -= len(data)
        if data and self.discarding <= 0:
            self.handle_close()

    def handle_write(self) -> None:
        """Send what is to be sent. After an error, stop sending before the connection is closed."""
        if not self.refused or self.will_close:
            super().handle_write()
            return
        self._flush_exception(self._flush_some_if_lockable)
        if self.close_when_flushed and not self.total_outbufs_len and not self.will_close:
            self.close_when_flushed, self.discarding = False, DISCARDED
            self.socket.shutdown(socket.SHUT_WR)

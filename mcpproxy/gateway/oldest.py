"""HTTP+SSE towards clients (MCP 2024-11-05, basic/transports): one stream is the session, and everything comes on it.

    GET              ──▶ a stream; its first event tells where to POST: the same path, and the session in the query
    POST to there    ──▶ 202; the answer comes on the stream

The session ends with its stream: nothing can be resumed, and nobody could read an answer. Messages mean what they mean in gateway/legacy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcpproxy.clock import clock
from mcpproxy.gateway import legacy
from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE
from mcpproxy.gateway.sessions import Session
from mcpproxy.gateway.web import Visit
from mcpproxy.mcp import message

if TYPE_CHECKING:
    from mcpproxy.gateway.face import Face, Said


def get(face: Face, visit: Visit, said: Said) -> None:
    """The transport of 2024-11-05: the session is this stream."""
    if not face.sessions.room(clock.now):
        visit.answer(503, message.response(None, error=message.error(MEMBER_UNAVAILABLE, "Too many sessions")), b"Retry-After: 60\r\n")
        return
    session = Session(face.service, said.caller, said.route, None)
    face.sessions.add(session)
    visit.begin()
    visit.event(b"event: endpoint\ndata: %b?session_id=%b\n\n" % (said.path, session.session.encode()))
    session.stream.gone = lambda: face.sessions.end(session)
    session.stream.attach(visit)


def post(face: Face, visit: Visit, said: Said, id: str) -> None:
    """A message for such a session. Its answer comes on the stream."""
    session = face.sessions.find(id, said.caller)
    if session is None or session.store is not None:
        visit.answer(404, message.response(None, error=message.error(legacy.NO_SESSION, "Session not found")))
        return
    session.route = said.route
    told = message.read(said.body)
    if not told.is_request:
        legacy.hear(face, session, told)
    else:
        call = legacy.begin_call(face, session, told, said)
        if isinstance(call, bytes):
            session.stream.send(call)
        else:
            call.stream, call.own = session.stream, False
    visit.answer(202, b"Accepted", kind=b"text/plain")

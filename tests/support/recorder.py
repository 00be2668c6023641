"""An upstream that answers 200 to everything and remembers exactly what reached it.

`complete`: every whole request, strictly judged. `partial`: what links had received of a request when they ended. `bad`: bytes that were no
strict HTTP/1.1; there must never be any, whatever the client sent. What was consumed is forgotten, so it lasts for 100 000 exchanges.
"""

from tests.support.message import Message, MessageError
from tests.support.upstream import Link, ScriptedUpstream, ScriptEnd, response


class Recorder(ScriptedUpstream):
    def __init__(self) -> None:
        super().__init__(self._record, keep_bytes=False)
        self.complete: list[Message] = []
        self.partial: list[bytes] = []
        self.bad: list[str] = []

    def _record(self, link: Link) -> None:
        try:
            while True:
                request = link.read_request()
                self.complete.append(request)
                reply = response(b'{"seen":"%b"}' % request.target[:100].replace(b'"', b"'"))
                link.send(reply if request.method != b"HEAD" else reply.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        except MessageError as error:
            self.bad.append(str(error))
        except ScriptEnd:
            if link.unread:
                self.partial.append(link.unread)
            raise

"""What can go wrong, and what each failure already knows about itself.

ProxyError                 one exchange failed; it knows its slug, whose fault it is, the status a client gets and whether to try again
├─ HeadError               (http/head)    a head that must be refused
└─ FramingError            (http/framing) a body that broke its own framing
StartError                 the daemon cannot start; one line for the operator, a hint, an exit code

Call sites never guess and logs never parse text: `kind` is a stable slug (docs/operations.md lists them all).
"""

from enum import Enum


class Side(Enum):
    """Whose fault it was."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class Retry(Enum):
    """May the same request be sent again? (DESIGN: the retry rule; upstream/retry.py decides with the facts of the link.)"""

    NEVER = "never"
    IF_REUSED = "if-reused"  # only when the link was a reused one and died before any response byte
    SAFE = "safe"  # no byte of the request left: a failed connect


class ProxyError(Exception):
    """One exchange failed. `kind` is the slug for logs and answers, `status` what the client is told if its head has not gone out yet."""

    def __init__(self, kind: str, side: Side, status: int, retry: Retry = Retry.NEVER) -> None:
        super().__init__(kind)
        self.kind = kind
        self.side = side
        self.status = status
        self.retry = retry


class StartError(Exception):
    """The daemon cannot start. `message` is one line, `hint` says what to do, `code` is the exit status."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

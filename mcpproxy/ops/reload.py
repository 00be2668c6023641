"""A reload, as the supervisor conducts it: all workers have the new configuration, or none.

   supervisor ── reads and checks the file, binds new addresses, reads certificates ──▶ offer (a memory file, sockets) ──▶ every worker
   worker     ── prepares (refit) ──▶ PREPARED or REFUSED
   supervisor ── COMMIT to all once all are prepared; ABORT to all if one refuses, or does not answer in ANSWER_S
   worker     ── COMMITTED: then it is said that the configuration is another one

1. Whatever is wrong is said whole, and the configuration before goes on: with its sockets, and without a connection that noticed.
2. What is offered is a Config as this process read it, so all have the same, whatever happens to the file meanwhile.
3. While workers prepare nobody is forked: who is made afterwards begins with what was decided.
4. Each offer has a number: the answer to one that was given up is not taken for the answer to the next.
"""

from __future__ import annotations

import os
import pickle
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from mcpproxy.assemble import Shared, give_back, listen_names, tls_context, url
from mcpproxy.clock import monotonic
from mcpproxy.config.model import Config
from mcpproxy.errors import StartError
from mcpproxy.net.listener import Address, bind_all
from mcpproxy.net.tls import take_over
from mcpproxy.ops.systemd import READY, reloading, tell
from mcpproxy.refit import fixed

PREPARE, COMMIT, ABORT = b"p", b"c", b"x"  # to a worker, each with the number of the offer
PREPARED, REFUSED, COMMITTED = b"p", b"n", b"c"  # from it, likewise; REFUSED with the reason
ANSWER_S = 30.0  # for all workers to prepare
LONGEST = 4096  # bytes of a reason
DESCRIPTORS = 250  # that the kernel passes at once are 253 (SCM_MAX_FD)

Reply = Callable[[bool, str], None]
Read = Callable[[], Config]  # the file again; raises StartError with every mistake in it


class Worker(Protocol):
    """What is asked of one here."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def post(self) -> socket.socket:
        """Where it hears us."""

    def tell(self, *words: bytes) -> None:
        """Send each."""


@dataclass(slots=True)
class Offer:
    """What is being decided."""

    number: int
    config: Config
    sockets: dict[str, list[socket.socket]]  # of new listeners, by name
    contexts: list[ssl.SSLContext | None]
    undo: ExitStack
    deadline: float
    replies: list[Reply]
    waiting: dict[int, Worker] = field(default_factory=dict)  # whose answer is not here yet, by number
    prepared: dict[int, Worker] = field(default_factory=dict)
    decided: bool = False


class Reload:
    """At most one at a time; who asks meanwhile gets another one afterwards."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        workers: Mapping[int, Worker],
        read: Read | None,
        decided: Callable[[Config], None],
        say: Callable[[str, str], None],
    ) -> None:
        """`workers`: those that live, by number. `decided` hears of a configuration that counts from now on, before anybody else does."""
        self._config, self._shared, self._workers, self._read, self._decided, self._say = config, shared, workers, read, decided, say
        self._offer: Offer | None = None
        self._number = 0
        self._again: list[Reply] | None = None
        self.generation = 1

    @property
    def pending(self) -> bool:
        """Is one under way?"""
        return self._offer is not None

    @property
    def deadline(self) -> float:
        """When it is given up. Monotonic seconds."""
        return self._offer.deadline if self._offer is not None else float("inf")

    def begin(self, *replies: Reply) -> None:
        """Read the file and offer it to all."""
        if self._offer is not None:
            self._again = [*(self._again or ()), *replies]
            return
        tell(reloading())
        try:
            offer = self._prepared(list(replies))
        except StartError as error:
            self._refused([error.message, *error.hint.splitlines()], replies)
            return
        self._offer = offer
        offer.waiting = dict(self._workers)
        for number, worker in self._workers.items():
            try:
                send(worker.post, offer)
            except ConnectionError:
                del offer.waiting[number]  # it is dead, and we shall hear of it
            except OSError as error:
                full = isinstance(error, BlockingIOError)
                self._give_up(f"{worker.name} does not listen" if full else f"{worker.name} cannot be told: {error.strerror}")
                return
        self._see()

    def _prepared(self, replies: list[Reply]) -> Offer:
        """Everything that can fail in this process. Raises StartError."""
        if self._read is None:
            raise StartError("there is no configuration file that could be read again")
        config = self._read()
        if said := fixed(self._config, config):
            raise StartError("it cannot be had while this one serves", "\n".join(said))
        known = listen_names(self._config)
        with ExitStack() as undo:
            contexts = [tls_context(listen, config) for listen in config.listen]
            sockets: dict[str, list[socket.socket]] = {}
            for name, listen in listen_names(config).items():
                if name not in known:
                    sockets[name] = bind_all(Address.parse(listen.address), self._shared.workers)
                    undo.callback(give_back, sockets[name])
            if sum(len(set(each)) for each in sockets.values()) > DESCRIPTORS:
                raise StartError("too many new addresses at once", "reload in several steps, or restart")
            self._number = self._number % 255 + 1
            return Offer(self._number, config, sockets, contexts, undo.pop_all(), monotonic() + ANSWER_S, replies)

    # -- answers -------------------------------------------------------------------------------------------------------------------------------

    def heard(self, number: int, worker: Worker, word: bytes) -> None:
        """PREPARED, REFUSED or COMMITTED."""
        offer = self._offer
        if offer is None or word[1] != offer.number or number not in offer.waiting:
            return
        if word[:1] == REFUSED:
            self._give_up(f"{worker.name}: {word[2:].decode(errors='replace')}")
        elif offer.decided == (word[:1] == COMMITTED):
            del offer.waiting[number]
            offer.prepared[number] = worker
            self._see()

    def gone(self, number: int) -> None:
        """A worker died: nobody waits for its answer. Its successor begins with what is decided."""
        offer = self._offer
        if offer is not None:
            offer.prepared.pop(number, None)
            if offer.waiting.pop(number, None) is not None:
                self._see()

    def look(self, now: float) -> None:
        """Does it take too long?"""
        offer = self._offer
        if offer is None or now < offer.deadline:
            return
        if offer.decided:
            offer.waiting.clear()
            self._see()
        else:
            self._give_up(f"{', '.join(worker.name for worker in offer.waiting.values())}: no answer within {ANSWER_S:g} s")

    def stop(self) -> None:
        """The end of us all."""
        self._again = None
        if self._offer is not None and not self._offer.decided:
            self._give_up("it is ending")

    # -- what is decided -----------------------------------------------------------------------------------------------------------------------

    def _see(self) -> None:
        offer = self._offer
        if offer is None or offer.waiting:
            return
        if not offer.decided:
            offer.decided = True
            offer.undo.pop_all()
            self.generation += 1
            self._adopt(offer)
            self._decided(offer.config)
            offer.waiting, offer.deadline = offer.prepared.copy(), monotonic() + ANSWER_S
            for worker in offer.prepared.values():
                worker.tell(COMMIT + bytes([offer.number]))
            if offer.waiting:
                return
        self._offer = None
        text = f"configuration reloaded (generation {self.generation})"
        self._say("info", text)
        tell(READY)
        for reply in offer.replies:
            reply(True, text)
        self._next()

    def _adopt(self, offer: Offer) -> None:
        """What later workers begin with."""
        shared = self._shared
        before = dict(zip(listen_names(self._config), zip(shared.sockets, shared.contexts, strict=True), strict=True))
        sockets, contexts = [], []
        for name, fresh in zip(listen_names(offer.config), offer.contexts, strict=True):
            found = before.pop(name, None)
            sockets.append(found[0] if found is not None else offer.sockets[name])
            contexts.append(take_over(found[1] if found is not None else None, fresh))
        for gone, _ in before.values():
            give_back(gone, shared.passed)
        shared.sockets, shared.contexts = sockets, contexts
        shared.urls = [url(Address.of(each[0]), secure=context is not None) for each, context in zip(sockets, contexts, strict=True)]
        self._config = offer.config

    def _give_up(self, why: str) -> None:
        offer, self._offer = self._offer, None
        assert offer is not None, "there is something to give up"
        offer.undo.close()
        for worker in (*offer.prepared.values(), *offer.waiting.values()):
            worker.tell(ABORT + bytes([offer.number]))
        self._refused([why], offer.replies)

    def _refused(self, lines: list[str], replies: Iterable[Reply]) -> None:
        self._say("error", f"configuration not reloaded, the one before goes on: {lines[0]}")
        for line in lines[1:]:
            self._say("error", f"  {line}")
        tell(READY)
        for reply in replies:
            reply(False, "\n".join(lines))
        self._next()

    def _next(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            self.begin(*again)


def in_memory(what: object) -> int:
    """The descriptor of a file without a name that holds it, pickled: for a child of ours."""
    memory = os.memfd_create("mcpproxy-config", os.MFD_CLOEXEC)
    try:
        os.write(memory, pickle.dumps(what))
    except BaseException:
        os.close(memory)
        raise
    return memory


def send(post: socket.socket, offer: Offer) -> None:
    """PREPARE: what the offer is lies in a memory file; the sockets go beside it. Raises OSError."""
    several = list(dict.fromkeys(sock for sockets in offer.sockets.values() for sock in sockets))  # a unix socket is the same one for all
    names = {name: [several.index(sock) for sock in sockets] for name, sockets in offer.sockets.items()}
    memory = in_memory((offer.config, names))
    try:
        descriptors = [memory, *(sock.fileno() for sock in several)]
        socket.send_fds(post, [PREPARE + bytes([offer.number])], descriptors, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        os.close(memory)


def receive(descriptors: list[int]) -> tuple[Config, dict[str, list[socket.socket]]]:
    """The other end of `send`: the configuration, and the sockets of new listeners by name."""
    memory, *rest = descriptors
    several = [socket.socket(fileno=each) for each in rest]
    # `pread`: all workers share one offset. A pickle may be read because our own supervisor wrote it, over a socket that nobody else has.
    config, names = pickle.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    os.close(memory)
    return config, {name: [several[each] for each in places] for name, places in names.items()}

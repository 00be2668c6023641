"""Workers, the control process, and the process that makes, watches and replaces them.

    supervisor ── listening sockets, TLS contexts, memory of the limits; signals; no loop, no thread, no connection
      ├─ worker 0 ── an edge process (`worker`): its own loop, pools, plans, log sink, counts
      ├─ worker 1 …
      ├─ gateway ─── where an upstream needs it: speaks MCP itself, starts servers as its children (`gateway`)
      └─ control ─── serves no client (`control/run`)

Supervisor and child talk over a pair of sockets; nobody else has either end, so each hears of the other's death at once, however it came.

 1. A worker obeys its supervisor only. Signals to the whole group (Ctrl-C, systemd) reach workers, too, and would count twice; they are let pass. Without
    a supervisor they drain, and a signal ends them.
 2. Worker 0 is made first, the others once it serves: what is wrong with a configuration is said once. `ready` is said once, when all serve.
 3. A worker that died is replaced at once; one that did not last STEADY_S, later each time. Until its successor serves, the others accept what the kernel
    gives to its sockets, which nobody closes: no connection waits for nobody.
 4. What it held of the limits is forgotten before another one takes its number. There are never two with one number.
 5. A worker, or the control process, that gives no sign of life for `watchdog` is asked where it is (its stacks go to stderr) and killed: its connections
    are lost anyway.
 6. The control process is made after worker 0 and replaced like a worker. Nobody waits for it.
 7. So is the gateway process, where the configuration needs one. It is told to drain with the workers, and to end when the last of them has ended: their calls
    go through it.

Exit status: 0 after a clean stop; 1 when the start failed, or when a worker did not end cleanly.

It is one file because who lives, who is due and who is to end is one table, and everything here changes it. Reloads have their own (`reload`).
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from mcpproxy.assemble import Shared, listen_names, share
from mcpproxy.clock import monotonic
from mcpproxy.config.model import Config
from mcpproxy.control import run as control
from mcpproxy.control import switchboard
from mcpproxy.errors import StartError
from mcpproxy.net import tickets
from mcpproxy.net.door import Door, make_door
from mcpproxy.net.loop import settle_memory
from mcpproxy.net.passed import Passed
from mcpproxy.observe.messages import Messages
from mcpproxy.ops import gateway, privileges, systemd, worker
from mcpproxy.ops.reload import COMMITTED, PREPARED, REFUSED, Read, Reload, Reply, in_memory
from mcpproxy.ops.upgrade import Estate, Heritage, Upgrade, heritage
from mcpproxy.ops.worker import BACK, DRAIN, END, HEARD, MISSING, REOPEN, SERVING

STEADY_S = 1.0  # who served for this long did not die of its start
FIRST_S, LONGEST_S = 0.1, 5.0  # until one that did is replaced: twice as long each time
AWAY_S = 0.5  # late for more than this: we did not run, and whoever was silent meanwhile may not have run either
LOOK_S = 1.0  # a turn lasts no longer: signs of life end most of them earlier
PATIENCE_S = 15.0  # for a child to end that must have ended by itself: a worker's last log lines have `worker.LOG_PATIENCE`
START_S = 60.0  # for a worker to begin to serve, at least: it may have much to read
ABORT_S = 1.0  # for a frozen worker to say where it stands
ENDING = False, "it is ending"  # what a reload is answered then
DONE = True, ""  # and an order of which there is nothing to say
CONTROL = -1  # its number among the children
GATEWAY = switchboard.GATEWAY

Ready = Callable[[list[str]], None]
Order = Callable[[Any, Reply], None]


def run(
    config: Config,
    *,
    drain: float | None = None,
    ready: Ready | None = None,
    read: Read | None = None,
    say_counts: bool = True,
    with_control: bool = False,
) -> int:
    """Serve `config` until told to stop, with as many processes as it asks for. `drain` overrides the configured drain time; `ready` hears the URLs once
    all serve; `read` reads the configuration again, for a reload; at the end the counts are said unless `say_counts` is false."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # who sees the addresses accept may send one before anybody hears it: it waits
    left = heritage(os.environ)
    try:
        shared = _prepared(config, left)
    except StartError as error:
        worker.explain(error)
        return error.code
    door = make_door() if with_control else None

    def serves(urls: list[str]) -> None:
        if left is not None:
            left.serves()
            shared.own()
        if ready is not None:
            ready(urls)

    return Supervisor(config, shared, drain, serves, read, door, say_counts=say_counts).run()


def _prepared(config: Config, left: Heritage | None) -> Shared:
    """Addresses bound, certificates read, and then no longer root. Raises StartError."""
    say = Messages(config.log.level).say
    who = privileges.account(config)
    shared = share(config, Passed.from_environment(os.environ)) if left is None else share(config, None, left.sockets, left.kept)
    shared.alone = left is None
    if left is not None:
        _go_on(config, shared, left.estate)
    if who is not None:
        try:
            privileges.give_up(who, config, say, sockets=shared.paths())
        except StartError:
            shared.close()
            raise
    return shared


def _go_on(config: Config, shared: Shared, estate: Estate) -> None:
    """With what the program before this one knew."""
    shared.buckets.inherit(estate.limits)
    shared.states = {(upstream, endpoint): state for upstream, endpoint, state in estate.states}
    for name, context in zip(listen_names(config), shared.contexts, strict=True):
        if context is not None and name in estate.tickets:
            tickets.use(context, estate.tickets[name])


class Child:
    """What the supervisor knows of one."""

    __slots__ = ("heard", "number", "pid", "post", "since")

    def __init__(self, number: int, pid: int, post: socket.socket) -> None:
        self.number, self.pid, self.post = number, pid, post
        self.since = 0.0  # when it began to serve; 0: not yet
        self.heard = monotonic()  # when it gave a sign of life

    @property
    def name(self) -> str:
        return name_of(self.number)

    def tell(self, *words: bytes) -> None:
        """Send each; one that is dead or stands still does not hear it."""
        for word in words:
            with suppress(OSError):
                self.post.send(word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Supervisor:
    """From the first fork to the last exit status."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        drain: float | None,
        ready: Ready | None,
        read: Read | None,
        door: Door | None,
        *,
        say_counts: bool = True,
    ) -> None:
        self._config, self._shared, self._drain, self._ready, self._door = config, shared, drain, ready, door
        self._say_counts = say_counts
        self._messages = Messages(config.log.level)
        self._workers: dict[int, Child] = {}  # by number
        self._control: Child | None = None
        self._gateway: Child | None = None
        self._due: dict[int, float] = {0: 0.0}  # numbers without a process, and when they get one
        self._quick: dict[int, int] = {}  # of each number: deaths in a row that came too soon
        self._reload = Reload(config, shared, self._workers, read, self._decided, self._messages.say)
        self._upgrade = Upgrade(self._messages.say)
        self._orders: dict[str, Order] = {"reload": lambda _, reply: self._reload_now(reply), "endpoint": self._remember}  # by control
        self._ready_said = False
        self._unit = systemd.Unit(shared.workers)
        self._stopping = False
        self._deadline = float("inf")  # when who is left is killed
        self._code = 0
        self._turned = monotonic()  # when we last looked at the clock
        self._pid = os.getpid()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Until the last worker ended."""
        settle_memory()  # what is here now is never touched again, and stays one copy for all
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, _woken)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        try:
            while self._workers or not self._stopping:
                self._start_due()
                self._wait()
            for child in (self._gateway, self._control):
                if child is not None:
                    self._let_end(child)
        finally:
            self._shared.close()
        return self._code

    @property
    def _children(self) -> list[Child]:
        return [*self._workers.values(), *(child for child in (self._gateway, self._control) if child is not None)]

    # -- children come -----------------------------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = monotonic()
        for number in [number for number, due in self._due.items() if due <= now and not self._reload.pending]:
            del self._due[number]
            try:
                self._start(number)
            except OSError as error:
                self._messages.say("error", f"{name_of(number)} cannot be made: {error.strerror}; trying again")
                self._due[number] = now + LONGEST_S

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be(number, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        child = Child(number, pid, ours)
        if number == GATEWAY:
            self._gateway = child
        elif number == CONTROL:
            self._control = child
            child.since = monotonic()
            self._tell_control(event="reloaded", generation=self._reload.generation)
            for other in self._workers.values():
                self._tell_control(event="born", worker=other.number, pid=other.pid)
        else:
            self._workers[number] = child
            self._tell_control(event="born", worker=number, pid=pid)

    def _be(self, number: int, post: socket.socket) -> NoReturn:
        """The child's whole life."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for each in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                signal.signal(each, signal.SIG_IGN)
            os.close(self._wake)
            os.close(self._woken)
            for child in self._children:
                child.post.close()
            self._shared.want_none()
            _call_ourselves({CONTROL: "mcpproxy:ctl", GATEWAY: "mcpproxy:gw"}.get(number, f"mcpproxy:{number}"))
            faulthandler.enable()
            if number == CONTROL:
                assert self._door is not None, "else there is none"
                self._shared.let_go()
                self._shared.gateway.sock.close()
                code = control.serve(self._config, self._shared, self._door, post)
            elif number == GATEWAY:
                self._shared.let_go()
                code = gateway.serve(self._config, self._shared, post, self._pid, self._door)
            else:
                self._shared.worker = number
                code = worker.serve(self._config, self._shared, post, self._pid, self._drain, self._door, say_counts=self._say_counts)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _serves(self, child: Child) -> None:
        child.since = monotonic()
        if child is self._gateway:
            return
        self._shared.alone = False
        if self._stopping:
            return
        for other in self._workers.values():
            other.tell(BACK + bytes([child.number]))
        missing = [number for number in range(self._shared.workers) if number not in self._workers or not self._workers[number].since]
        child.tell(*(MISSING + bytes([number]) for number in missing))
        if not self._ready_said:
            for number in missing:
                if number not in self._workers:
                    self._due.setdefault(number, 0.0)
            if self._door is not None and self._control is None:
                self._due.setdefault(CONTROL, 0.0)
            self._want_gateway()
            if not missing:
                self._ready_said = True
                if self._ready is not None:
                    self._ready(self._shared.urls)
        self._say_status()

    def _want_gateway(self) -> None:
        """There is one where an upstream needs it."""
        if self._gateway is None and GATEWAY not in self._due and gateway.wanted(self._config):
            self._due[GATEWAY] = 0.0

    # -- what happens ------------------------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        posts = {child.post.fileno(): child for child in self._children}
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for descriptor in (*posts, *self._upgrade.descriptors()):
            poll.register(descriptor, select.POLLIN)
        due = [] if self._reload.pending else self._due.values()
        mine = (self._deadline, self._frozen_at(), self._reload.deadline, self._upgrade.deadline, self._unit.due)
        wait = min(max(0.0, min([*mine, *due]) - monotonic()), LOOK_S)
        for descriptor, _ in poll.poll(wait * 1000 + 1):
            if descriptor == self._wake:
                for number in os.read(self._wake, 64):
                    self._told(number)
            elif descriptor in posts:
                self._heard(posts[descriptor])
        now = monotonic()
        away, self._turned = now - self._turned - wait, now
        if away > AWAY_S:  # stopped, paused with all of its machine, or long at something: that is nobody's silence
            for child in self._children:
                child.heard = min(now, child.heard + away)
        self._reload.look(now)
        if heir := self._upgrade.look(now):
            self._hand_over(heir)
        if now >= self._unit.due:  # a supervisor of nobody is of no use
            self._unit.ping(now, alive=any(now - child.heard < self._patience(child) for child in self._workers.values()))
        if now >= self._deadline:
            self._deadline = float("inf")
            for child in self._workers.values():
                self._messages.say("error", f"{child.name} (process {child.pid}) does not end: killed")
                os.kill(child.pid, signal.SIGKILL)
        elif now >= self._frozen_at():
            self._end_frozen(now)

    def _heard(self, child: Child) -> None:
        try:
            word = child.post.recv(control.LARGEST)
        except OSError:
            word = b""
        child.heard = monotonic()
        if not word:
            self._ended(child)
        elif child.number == CONTROL:
            if word != control.ALIVE:
                self._ordered(child, msgspec.json.decode(word))
        elif word == SERVING:
            self._serves(child)
        elif word[:1] in (PREPARED, REFUSED, COMMITTED):
            self._reload.heard(child.number, child, word)

    def _told(self, number: int) -> None:
        if number == signal.SIGUSR1:
            self._tell_all(REOPEN)
        elif number == signal.SIGHUP:
            self._reload_now()
        elif number == signal.SIGUSR2:
            self._let_another_begin()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop(END if self._stopping else DRAIN)

    def _say_status(self) -> None:
        self._unit.say(sum(child.since > 0 for child in self._workers.values()), len(self._workers), stopping=self._stopping)

    def _tell_all(self, word: bytes) -> None:
        for child in self._workers.values():
            child.tell(word)
        if self._gateway is not None and word != END:  # to end is for `_let_end` to say
            self._gateway.tell(word)

    def _stop(self, word: bytes) -> None:
        self._stopping = True
        self._reload.stop()
        self._upgrade.stop()
        self._due.clear()
        self._shared.close()
        self._tell_all(word)
        self._deadline = monotonic() + PATIENCE_S + (self._drain_s if word == DRAIN else 0.0)
        self._say_status()

    @property
    def _drain_s(self) -> float:
        return self._config.drain if self._drain is None else self._drain

    # -- another configuration ---------------------------------------------------------------------------------------------------------------

    def _reload_now(self, *replies: Reply) -> None:
        if self._stopping:
            for reply in replies:
                reply(*ENDING)
        else:
            self._reload.begin(self._reload_ended, *replies)

    def _reload_ended(self, ok: bool, text: str) -> None:
        if not ok:
            self._tell_control(event="reloaded", generation=self._reload.generation, refused=text.partition("\n")[0])

    def _remember(self, said: dict[str, str], reply: Reply) -> None:
        """What an operator made of an endpoint: for workers and programs to come. The present workers know it."""
        self._shared.states[said["upstream"], said["endpoint"]] = said["state"]
        reply(*DONE)

    def _decided(self, config: Config) -> None:
        """What is made from now on is made by this one."""
        former, self._config = self._config, config
        changed = config != former
        for upstream, endpoint in list(self._shared.states):
            if config.upstream.get(upstream) != former.upstream.get(upstream):  # it begins anew, by its file
                del self._shared.states[upstream, endpoint]
        self._messages.least(config.log.level)
        event = msgspec.json.encode({"event": "reloaded", "generation": self._reload.generation})
        if self._control is not None:
            if changed:
                self._hand(self._control, event, config)
            else:
                self._control.tell(event)
        if self._gateway is not None and changed:
            self._hand(self._gateway, gateway.BECOME, config)
        self._want_gateway()

    def _hand(self, child: Child, word: bytes, config: Config) -> None:
        """It is to be another one."""
        try:
            memory = in_memory(config)
            try:
                socket.send_fds(child.post, [word], [memory], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            finally:
                os.close(memory)
        except OSError:  # it stands still, or is dead, or we have no descriptor left; its successor begins with this one
            os.kill(child.pid, signal.SIGKILL)

    # -- another program ---------------------------------------------------------------------------------------------------------------------

    def _let_another_begin(self) -> None:
        if self._stopping or self._upgrade.pid or self._reload.pending or not self._ready_said:
            self._messages.say("warning", "no new program is started now: this one begins, ends or changes")
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        try:
            names = listen_names(self._config)
            self._upgrade.begin(dict(zip(names, self._shared.sockets, strict=True)), self._shared.passed, self._estate(names))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)

    def _estate(self, names: Iterable[str]) -> Estate:
        shared = self._shared
        sealed = {
            name: keys for name, context in zip(names, shared.contexts, strict=True) if context and (keys := tickets.keys_of(context))
        }
        taken_out = [
            (*whose, state) for whose, state in shared.states.items() if state != "enabled"
        ]  # for the rest the file may say otherwise
        return Estate(sealed, taken_out, shared.buckets.left())

    def _hand_over(self, heir: int) -> None:
        """It serves; what is open here ends here."""
        self._messages.say("info", f"process {heir} serves from now on")
        systemd.resign(heir)
        self._shared.lent = True
        self._stop(DRAIN)
        if self._control is not None:
            with suppress(OSError):
                self._control.post.shutdown(socket.SHUT_WR)

    # -- the control process -----------------------------------------------------------------------------------------------------------------

    def _tell_control(self, **event: Any) -> None:
        if self._control is not None:
            self._control.tell(msgspec.json.encode(event))

    def _ordered(self, child: Child, message: dict[str, Any]) -> None:
        def reply(ok: bool, text: str) -> None:
            child.tell(msgspec.json.encode({"id": message["id"], "ok": ok, "text": text}))

        order = self._orders.get(message["order"])
        if order is None:
            reply(False, f"no such order: {message['order']}")
        else:
            order(message["with"], reply)

    def _let_end(self, child: Child) -> None:
        """It ends with the connection; one that does not is killed."""
        if child.number == GATEWAY:
            child.tell(END)
        child.post.close()
        if not _ends(child.pid, PATIENCE_S):
            os.kill(child.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child.pid, 0)

    # -- children go -------------------------------------------------------------------------------------------------------------------------

    def _ended(self, child: Child) -> None:
        child.post.close()
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        number = child.number
        if number == GATEWAY:
            self._gateway = None
        elif number == CONTROL:
            self._control = None
        else:
            del self._workers[number]
            self._reload.gone(number)
            self._shared.buckets.forget_worker(number)
            self._tell_control(event="died", worker=number, pid=child.pid)
        self._say_status()
        how = f"{child.name} (process {child.pid}) " + (f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")
        if self._stopping:
            if code and number >= 0:
                self._messages.say("error", how)
                self._code = self._code or 1
            return
        if number == GATEWAY and code == 0:  # nobody needed it any more
            self._want_gateway()
            return
        if code > 0 and not child.since and not self._ready_said and number >= 0:  # the start fails, and it said why
            self._code = code
            self._stop(END)
            return
        now = monotonic()
        if child.since and now - child.since >= STEADY_S:
            self._quick[number] = 0
        quick = self._quick.get(number, 0)
        wait = min(LONGEST_S, FIRST_S * 2.0 ** (quick - 1)) if quick else 0.0
        self._quick[number] = min(quick + 1, 10)
        self._messages.say("error", f"{how}; another takes its place " + (f"in {wait:.1f} s" if wait else "at once"))
        if number >= 0:
            for other in self._workers.values():
                if other.since:
                    other.tell(MISSING + bytes([number]))
        self._due[number] = now + wait

    def _patience(self, child: Child) -> float:
        """How long it may be silent."""
        patience = self._config.watchdog
        return (patience if child.since else max(patience, START_S)) if patience else float("inf")

    def _frozen_at(self) -> float:
        """When the first of them will have been silent for too long."""
        return min((child.heard + self._patience(child) for child in self._children), default=float("inf"))

    def _end_frozen(self, now: float) -> None:
        for child in self._children:
            if now - child.heard >= self._patience(child) and not _readable(child.post.fileno(), 0.0):  # else we slept, and it has spoken
                self._messages.say(
                    "error", f"{child.name} (process {child.pid}) gave no sign of life for {now - child.heard:.0f} s: killed"
                )
                os.kill(child.pid, signal.SIGABRT)
                if not _ends(child.pid, ABORT_S):
                    os.kill(child.pid, signal.SIGKILL)
                child.heard = now  # its end is heard of at its post


def name_of(number: int) -> str:
    """For people."""
    return {CONTROL: "the control process", GATEWAY: "the gateway process"}.get(number, f"worker {number}")


def _readable(descriptor: int, wait_s: float) -> bool:
    """Within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def _ends(pid: int, seconds: float) -> bool:
    """Does our child end within so many seconds? False also where no descriptor is left to find out."""
    try:
        watch = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return _readable(watch, seconds)
    finally:
        os.close(watch)


def _call_ourselves(name: str) -> None:
    """What ps and top show (proc(5), comm): at most 15 bytes."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def _woken(*_: object) -> None:
    """The number of the signal is in the pipe."""

"""A stdio server that behaves as its arguments say. No SDK: it starts in 15 ms, and can do what an SDK would not.

   python -ISE rascal.py [HABIT…]        habits at start: exit, mute, deaf-to-end, dies-of-discover, modern, both, alone,
                                          dies-of-initialize, noise

Methods are habits, too: echo, die, hang, work, flood, noise, long, fork, escape, ask, log, env, ids, late.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

habits = set(sys.argv[1:])
out = sys.stdout.buffer
seen = []


def put(**message):
    out.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    out.flush()


def call(id, method, params):
    token = params.get("_meta", {}).get("progressToken")
    if method == "server/discover":
        if "dies-of-discover" in habits:
            sys.exit(9)
        if not habits & {"modern", "both"}:
            return put(id=id, error={"code": -32601, "message": "no such method"})
        capabilities = {"tools": {"listChanged": True}, "resources": {"subscribe": True}}
        return put(id=id, result={"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"})
    if method == "subscriptions/listen":
        meta = {"io.modelcontextprotocol/subscriptionId": id}
        return put(method="notifications/subscriptions/acknowledged", params={"_meta": meta, "notifications": params["notifications"]})
    if method == "initialize":
        if "dies-of-initialize" in habits:
            print("I cannot bear this", file=sys.stderr, flush=True)
            sys.exit(3)
        if "modern" in habits:
            return put(id=id, error={"code": -32601, "message": "no such method"})
        return put(
            id=id,
            result={"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "rascal", "version": "1"}},
        )
    if method == "die":
        os._exit(5)
    if method == "kill":
        os.kill(os.getpid(), signal.SIGSEGV)
    if method == "hang":
        return None
    if method == "work":
        for n in range(params.get("steps", 3)):
            put(method="notifications/progress", params={"progressToken": token, "progress": n})
            time.sleep(params.get("pause", 0.01))
    if method == "flood":
        line = (
            json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 900}}).encode()
            + b"\n"
        )
        for _ in range(params["count"]):
            out.write(line)
        out.flush()
    if method == "noise":
        for n in range(params.get("count", 1)):
            out.write(b"Server is ready! %d\n" % n)
            print("words", n, file=sys.stderr, flush=True)
        out.flush()
    if method == "long":
        size = params["size"]
        out.write(b'{"result":{"x":"' if params.get("last") else b'{"jsonrpc":"2.0","id":%d,"result":{"x":"' % id)
        for _ in range(size >> 20):
            out.write(b"x" * (1 << 20))
        out.write(b'"},"jsonrpc":"2.0","id":%d}\n' % id if params.get("last") else b'"}}\n')
        out.flush()
        return None
    if method in ("fork", "escape"):
        child = subprocess.Popen(
            ["sleep", "600"], start_new_session=method == "escape", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        return put(id=id, result={"pid": child.pid})
    if method == "ask":
        return put(id=f"q{id}", method=params.get("method", "roots/list"), params={"for": id})
    if method == "env":
        return put(
            id=id,
            result={"env": dict(os.environ), "cwd": os.getcwd(), "fds": sorted(os.listdir("/proc/self/fd"), key=int), "args": sys.argv},
        )
    if method == "limits":
        import resource

        return put(
            id=id, result={name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_NPROC")}
        )
    if method == "seen":
        return put(id=id, result={"seen": seen})
    return put(id=id, result={"pid": os.getpid(), "method": method, "params": params})


if "exit" in habits:
    sys.exit(7)
if "alone" in habits:
    lock = os.open("alone", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(8)
if "noise" in habits:
    out.write(b"Welcome to rascal\n\n")
    out.flush()
if "deaf-to-term" in habits:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "mute" in habits:
    time.sleep(600)
for line in sys.stdin.buffer:
    message = json.loads(line)
    seen.append(message)
    if "method" in message and "id" in message:
        call(message["id"], message["method"], message.get("params", {}))
    elif "method" not in message and str(message["id"]).startswith("q"):
        put(id=int(message["id"][1:]), result={"reply": message.get("result"), "error": message.get("error")})
if "deaf-to-end" in habits or "deaf-to-term" in habits:
    time.sleep(600)

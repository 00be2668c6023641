"""Which route does a request belong to?

Among the routes that fit, one with the exact host goes before one with a wildcard (the longer before the shorter), and that before one
for any host; among those of one host the longest path wins. A host without a fitting path leaves the question to the next wider one.

 1. A path is a prefix on segment borders: /mcp takes /mcp, /mcp/ and /mcp/x, never /mcpx.
 2. Percent-encoded unreserved characters are compared decoded (RFC 3986 §6.2.2.2); the request is forwarded as it came.
 3. Some servers also decode %2F, take a backslash for a slash, cut parameters off (/mcp;x), merge slashes, and resolve dot segments. When that
    reading of a path would belong to another route, the path belongs to none: no rule of one route can be walked around through another one.
 4. The cost is bounded by the routes (their number of segments, the labels of a host), not by what a client sends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mcpproxy.config.model import Route
from mcpproxy.config.names import generous_path, plain_path

AMBIGUOUS = re.compile(rb"[%;\\]|//|/\.")  # rule 3 is asked only about paths that have one of these
LABELS = 127  # a DNS name has no more


class Router:
    """Made once per configuration; finds the index of a route."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._any = Paths()
        self._exact: dict[bytes, Paths] = {}
        self._wildcards: dict[bytes, Paths] = {}  # ".example.com"
        for index, route in enumerate(routes):
            for host in route.host:
                name = host.encode()
                table, name = (self._wildcards, name[1:]) if name.startswith(b"*.") else (self._exact, name)
                table.setdefault(name, Paths()).add(route.path.encode(), index)
            if not route.host:
                self._any.add(route.path.encode(), index)

    def find(self, host: bytes, path: bytes) -> int | None:
        """The route of a request; `host` in lower case without port, `path` as received, without the query."""
        tables = list(self._tables(host))
        plain = plain_path(path)
        found = next((index for paths in tables if (index := paths.plain.find(plain)) is not None), None)
        if found is not None and AMBIGUOUS.search(path):
            read_so = generous_path(path)
            generous = next((index for paths in tables if (index := paths.generous.find(read_so)) is not None), None)
            return found if generous == found else None  # rule 3
        return found

    def knows_host(self, host: bytes) -> bool:
        """Is there a route for this host at all?"""
        return next(self._tables(host), None) is not None

    def _tables(self, host: bytes) -> Iterator[Paths]:
        """The paths of every host pattern that fits, the most exact first."""
        host = host.removesuffix(b".")
        exact = self._exact.get(host)
        if exact is not None:
            yield exact
        if self._wildcards and not host.startswith((b".", b"[")):
            labels = host.split(b".", LABELS)
            for cut in range(1, len(labels)):
                wildcard = self._wildcards.get(b"." + b".".join(labels[cut:]))
                if wildcard is not None:
                    yield wildcard
        if self._any.plain.routes:
            yield self._any


class Paths:
    """The path prefixes of one host pattern, in both readings."""

    __slots__ = ("generous", "plain")

    def __init__(self) -> None:
        self.plain = Prefixes()
        self.generous = Prefixes()

    def add(self, path: bytes, index: int) -> None:
        """A route's path."""
        self.plain.add(plain_path(path), index)
        self.generous.add(generous_path(path), index)


class Prefixes:
    """Prefixes on segment borders."""

    __slots__ = ("depth", "routes")

    def __init__(self) -> None:
        self.routes: dict[bytes, int] = {}
        self.depth = 0

    def add(self, path: bytes, index: int) -> None:
        """The first of two equal ones stays (the configuration refuses the second)."""
        self.routes.setdefault(path, index)
        self.depth = max(self.depth, path.count(b"/"))

    def find(self, path: bytes) -> int | None:
        """The longest prefix that fits. `*` (of OPTIONS) fits only `/`."""
        segments = path.split(b"/", self.depth + 1)[: self.depth + 1]
        while len(segments) > 1:
            found = self.routes.get(b"/".join(segments))
            if found is not None:
                return found
            segments.pop()
        return self.routes.get(b"/")

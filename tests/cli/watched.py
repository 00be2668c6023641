"""A daemon with something open, for the commands that ask it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.test_admin import operator, play
from tests.support.daemon import Daemon, simple_config
from tests.support.upstream import ScriptedUpstream


@dataclass
class Watched:
    daemon: Daemon
    endpoint: str

    @property
    def words(self) -> list[str]:
        """What names the daemon on a command line."""
        return ["-c", str(self.daemon.file)]


@contextmanager
def watched(directory: Path) -> Iterator[Watched]:
    """Its state directory is in its configuration: commands find it there."""
    with ScriptedUpstream(play) as upstream:
        config = simple_config(upstream.url, state_dir=str(directory / "state"))
        with Daemon(config, directory) as daemon:
            operator(daemon)
            yield Watched(daemon, upstream.url.removeprefix("http://"))

"""`python -m mcpproxy` is `mcpproxy`: both begin here, and the daemon's signals wait before anything else is imported.

SIGHUP, SIGUSR1 and SIGUSR2 are orders to a daemon; to a program that has no handler for them yet they are its end. So they are blocked while it starts,
and heard once it can (ops/supervise). SIGTERM and SIGINT end it at any time.
"""

import signal
import sys

ORDERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Run the command line and exit."""
    if sys.argv[1:2] == ["run"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
    from mcpproxy.cli.main import main

    main()


if __name__ == "__main__":
    main()

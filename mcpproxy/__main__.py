"""`python -m mcpproxy` is `mcpproxy`."""

from mcpproxy.cli.main import main

if __name__ == "__main__":
    main()

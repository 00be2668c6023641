"""The demo: a real MCP server in a child process, a configuration for it, and what the screen shows."""

"""A remote MCP server as a local stdio server: the program behind `mcpproxy connect`. No daemon, no pool: a client on somebody's desk."""

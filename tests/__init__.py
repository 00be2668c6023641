"""All tests of mcpproxy; mirrors of the rooms, plays in memory, scenarios over loopback, real software."""

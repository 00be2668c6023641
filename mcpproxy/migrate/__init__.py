"""Other programs' configurations, as ours: what `mcpproxy import` reads and writes."""

"""mcpproxy: one daemon in front of Model Context Protocol servers. Start reading at edge/downstream.py; docs/tour.md gives the order."""

__version__ = "0.1.0"

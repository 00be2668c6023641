"""Clients that are started as programs, one per SDK. Each reads jobs from stdin, one JSON object a line: {"url": …, "era": …, "transport": …},
takes the same tour through that server, and writes what it saw as one JSON line (tests/real/tour.py says what it must have seen)."""

"""Clients that are started as programs, one per SDK.

Each says {"ready": true} once it has imported everything. Then it reads jobs from stdin, one JSON object a line: {"url": …, "era": …,
"transport": …, "big": …}, takes the same tour through that server, and writes what it saw as one JSON line. test_tours.py says what that
must be.
"""

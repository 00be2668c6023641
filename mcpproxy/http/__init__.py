"""HTTP/1.1: bytes ↔ heads and boundaries. Sans-io: no socket, no clock, no loop is imported here."""

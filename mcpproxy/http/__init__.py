"""Bytes ↔ heads and boundaries of HTTP/1.1. Sans-io: whoever owns a socket feeds us and acts on what we say."""

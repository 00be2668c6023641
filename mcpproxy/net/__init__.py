"""Descriptors: sockets, TLS, timers, names. Knows no HTTP."""

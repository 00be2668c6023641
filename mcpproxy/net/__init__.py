"""Descriptors: sockets, TLS, timers, names. Knows no HTTP, but for the small client of `fetch`."""

"""Servers that are started as programs, each with the interpreter of its own room: python FILE PORT, or node FILE PORT."""

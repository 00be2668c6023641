"""The configuration: one TOML file becomes one frozen Config, or a list of every mistake in it.

model      what can be configured; every key with its kind, default and documentation
kinds      the kinds of value (duration, size, address, …): how each is read, what it refuses
names      syntax of addresses, URLs, host names and paths
load       TOML text → model; `load`, `serve_config`
check      what only shows when the whole is seen: names that must exist, duplicates; and what is legal but unwise
files      the files it names: missing, unreadable, not matching; open to everybody, about to expire
places     where in the text a value stands
mistakes   a mistake: path, line, sentence, valid choices
reference  docs/config.md, written from the model
"""

"""The shared rig: a real daemon, an upstream that follows a script, raw clients, an independent reader of HTTP/1.1 messages."""

"""One request from top to bottom. Start at downstream.py."""

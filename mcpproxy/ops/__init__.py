"""Running it: start, signals, drain, stop."""

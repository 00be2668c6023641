"""Bad input and bad days, acted out over real loopback sockets against the real daemon."""

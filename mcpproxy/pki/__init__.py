"""Keys and certificates on disk: the state directory, and the development root."""

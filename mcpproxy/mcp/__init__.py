"""The messages of the Model Context Protocol, as far as an intermediary must read them. Sans-io."""

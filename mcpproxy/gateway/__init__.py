"""The process that knows messages: members (servers), the hub that joins them, and faces towards clients. Start with `parts`, then `hub`."""

"""What happened, told once: the access log and where it is written."""

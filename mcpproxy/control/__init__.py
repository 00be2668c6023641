"""The process that serves no client: it asks the workers, tells them, and talks to operators, monitors and certificate authorities."""

"""The `millrace` command: the composition root."""

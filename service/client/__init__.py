"""The `push` and `predict` commands: a client that knows the service by HTTP alone."""

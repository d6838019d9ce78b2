"""Wire bodies, one module a resource. They know records and JSON, not requests."""

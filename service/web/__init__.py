"""Between the routes and the store: bodies in, problems out, and what several routes share."""

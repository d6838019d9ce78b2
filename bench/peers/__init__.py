"""Services that keep a whole network for each task, as their own documentation writes it."""

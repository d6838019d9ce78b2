"""What the inference worker does: one batch for all tasks, the backbone once, each head once."""

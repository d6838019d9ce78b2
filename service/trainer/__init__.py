"""What a trainer does: claim runs, read archives, fit, export, publish; the heavy part in a child."""

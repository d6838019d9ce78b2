"""HTTP, processes and storage around `models`."""

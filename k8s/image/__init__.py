"""The image, built and run without Docker: `make image-check`."""

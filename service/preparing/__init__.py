"""The backbone prepare command: what one backbone serves, trained on another beside it and published."""

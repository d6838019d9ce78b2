"""The offline lab: a tiny network that knows three lines learns other figures, in seconds."""

"""The benchmark: it starts each contender, drives it from outside, and compares them in one run."""

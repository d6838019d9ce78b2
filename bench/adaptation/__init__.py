"""The evidence of the ways to adapt: programs whose figures are kept under docs/benchmarks/adaptation."""

"""`python -m benchmarks NAME`: every figure of docs/benchmarks.md, measured on the machine at hand.

Two sides of a comparison are measured in one process run, in turns, because a machine's speed drifts; what is printed
are medians, quartiles and the ratio of medians. `--write` puts the output into docs/benchmarks.md.
"""

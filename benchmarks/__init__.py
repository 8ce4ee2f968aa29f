"""Measurements of speed, as ratios side by side in one run; results as data in `benchmarks/results`."""

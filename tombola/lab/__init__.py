"""Experiments: a spec becomes a plan of runs, a store keeps their outcomes, workers do what is missing."""

"""Layers that compute with their living weights only, in training."""

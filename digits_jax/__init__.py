"""Handwritten-digit recognisers in JAX."""

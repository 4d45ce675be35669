"""MetaMix in JAX: mixed-precision activation quantisation by a meta-state precision searcher."""

__version__ = "0.1.0"

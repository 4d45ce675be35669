"""Flax layers: quantised convolutions and dense layers, batch norm, activations, and their hand-written gradients."""

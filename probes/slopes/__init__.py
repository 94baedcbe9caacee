"""Gradients held against differences, and what cuts, bends or draws on the way back."""

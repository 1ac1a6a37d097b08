"""Compares this implementation with golden cases of the released PyTorch program, array by array."""

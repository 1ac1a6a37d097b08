"""Replays golden cases: numbers of the PyTorch program, compared array by array."""

"""Doors to other programs: `interop.torch` to the released PyTorch program and back."""

"""Import from and export to the authors' released PyTorch program: settings, state dicts, checkpoints."""

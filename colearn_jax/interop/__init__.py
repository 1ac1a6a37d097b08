"""Import from and export to the released PyTorch program: settings (YAML), state dicts, checkpoints."""

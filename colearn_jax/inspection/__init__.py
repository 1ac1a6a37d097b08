"""What a training would read: figures of its samples, leakage between its parts, and plots."""

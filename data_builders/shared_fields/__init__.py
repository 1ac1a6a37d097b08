"""Simulated agricultural fields whose sensors share more or less, with few or many labels."""

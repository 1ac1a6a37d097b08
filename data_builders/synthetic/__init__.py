"""Simulated agricultural fields."""

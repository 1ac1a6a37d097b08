"""Trains the arms of a study, and chooses their settings on validation parts."""

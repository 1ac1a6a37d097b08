"""Prepared data sets: opened, read, cut into folds, normalised, augmented and streamed."""

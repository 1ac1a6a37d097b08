"""Scores of predictions, and the files and tables that report them."""

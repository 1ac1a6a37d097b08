"""Reports of a study or of a single run: comparisons, tables, figures and one HTML page."""

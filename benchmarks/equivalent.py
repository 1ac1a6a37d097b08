"""Changes that no test can notice, with the reason: results are the same, or only time and memory differ."""

# (file, the line as it is, what is written instead): why. `mutants.py` counts these apart.
REASONS: dict[tuple[str, str, str], str] = {}

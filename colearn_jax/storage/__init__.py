"""Files that a run reads and writes: atomic writes, locks, cached arrays, finished models."""

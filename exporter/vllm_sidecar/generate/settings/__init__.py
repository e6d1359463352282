"""Settings of the generator: `rules/thresholds.yaml` as typed values."""

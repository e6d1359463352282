"""What users set for the generator: `rules/thresholds.yaml` as typed values."""

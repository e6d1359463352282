"""Catalog -> rules, dashboards and documents. It needs the extra `generate`, and `serve` never imports it."""

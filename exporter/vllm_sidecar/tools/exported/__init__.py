"""Series and status of running sidecars: from their own endpoints, or from Prometheus."""

"""The running program: one loop for each target, the GPUs, and the HTTP server that Prometheus scrapes."""

"""Runs the command line as `python -m vllm_sidecar`."""

import sys

from vllm_sidecar.cli import main

sys.exit(main())

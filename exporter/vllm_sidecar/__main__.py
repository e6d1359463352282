"""The entry point of `vllm-sidecar` and `python -m vllm_sidecar`: what has to be done before anything is imported."""

import os
import signal
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    # Set before numpy is loaded, which makes its threads then. The matrices of percentiles are small: a thread for each
    # core of a GPU node would only cost memory.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if sys.argv[1:2] == ["serve"]:
        # Until the program can reload, a SIGHUP waits: it would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from vllm_sidecar.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())

"""The entry point of `vllm-sidecar` and `python -m vllm_sidecar`: what has to be done before anything is imported."""

import os
import signal
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    _open_standard_streams()
    # Set before numpy is loaded, which makes its threads then. The matrices of percentiles are small: a thread for each
    # core of a GPU node would only cost memory.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if sys.argv[1:2] == ["serve"]:
        # Until the program can reload, a SIGHUP waits: it would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        # The kernel drops a SIGTERM without a handler for the first process of a container.
        signal.signal(signal.SIGTERM, _stop_while_starting)
    try:
        from vllm_sidecar.cli import main as run
        from vllm_sidecar.logs import take_uncaught

        take_uncaught()
        return run()
    except KeyboardInterrupt:  # while modules were imported
        return 130


def _stop_while_starting(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed, as Go and daemons do.

    Otherwise the next file or connection that is opened gets the number of that stream, and what a library prints
    would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open until the end
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())

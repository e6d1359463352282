"""The model of the quantiles is loaded when a server has served something, and not by the thread of the event loop."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest
from places import EXPORTER, TESTS

pytestmark = pytest.mark.io

PROGRAM = dedent("""
    import asyncio, sys, threading
    from readings import ENGINE, observed, readings
    from vllm_sidecar.serve.model_loading import model_loaded

    class Finder:
        def find_spec(self, name, *_):
            if name == "numpy":
                print("numpy is loaded by", threading.current_thread().name)

    async def polls():
        idle, served = (readings({ENGINE: {"time_to_first_token": seen}}) for seen in (observed(), observed(1.5)))
        await model_loaded(idle)
        print("idle:", "numpy" in sys.modules)
        await asyncio.gather(*(model_loaded(served) for _ in range(9)))
        print("served:", "vllm_sidecar.quantiles.model" in sys.modules, len(threading.enumerate()))

    sys.meta_path.insert(0, Finder())
    assert "numpy" not in sys.modules
    asyncio.run(polls())
""")


def outcome(program: str) -> list[str]:
    path = os.pathsep.join([str(EXPORTER), str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_thread_loads_it_at_the_first_poll_of_a_server_that_has_served_requests() -> None:
    assert outcome(PROGRAM) == ["idle: False", "numpy is loaded by load-quantiles", "served: True 1"]


def test_polls_go_on_where_no_thread_can_be_started() -> None:
    no_threads = "\nthreading.Thread.start = lambda self: (_ for _ in ()).throw(RuntimeError('no threads'))\n"
    program = PROGRAM.replace("\nsys.meta_path", f"{no_threads}sys.meta_path")

    assert outcome(program) == ["idle: False", "served: False 1"]

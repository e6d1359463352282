"""promtool through the project's own wrapper, for tests.

promtool is taken from PATH; with CI=true it is installed with apt where that is allowed. A miss skips the test, with
one line that says how to get it, and fails it with CI=true: a check that silently does not run is none.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from vllm_sidecar.tools import promtool as wrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.promtool import Result

HINT = "promtool is not on PATH: apt-get install prometheus (Debian, Ubuntu) or unpack a Prometheus release"


def check_metrics(text: str) -> Result:
    """Lint a body of /metrics in the text format."""
    program()
    return wrapper.check_metrics(text)


def check_config(path: Path) -> Result:
    """Check a configuration file of Prometheus and the rule files that it names."""
    program()
    return wrapper.check_config(path)


def check_rules(path: Path) -> Result:
    """Check a rule file."""
    program()
    return wrapper.check_rules(path)


def test_rules(path: Path) -> Result:
    """Run a file of rule unit tests."""
    program()
    return wrapper.test_rules(path)


test_rules.__test__ = False  # type: ignore[attr-defined] # pytest must not take it for one of its own


def failures(paths: Sequence[Path]) -> dict[str, str]:
    """Run files of rule unit tests in one process; return what is said of those that fail, by the files' stems."""
    done = subprocess.run(
        [program(), "test", "rules", *map(str, paths)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1800,
    )  # fmt: skip
    # Nothing, then name and text of each file in turn.
    _, *parts = re.split(r"^Unit Testing: +(.+)$", done.stdout, flags=re.MULTILINE)
    said = {Path(name).stem: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    assert said.keys() == {path.stem for path in paths}, done.stdout
    failed = {name: re.sub(r"\n\s*\n", "\n", text) for name, text in said.items() if text != "SUCCESS"}
    assert bool(failed) == bool(done.returncode), done.stdout
    return failed


@functools.cache
def _find() -> str | None:
    found = shutil.which("promtool")
    if found is None and os.environ.get("CI") == "true" and hasattr(os, "geteuid") and os.geteuid() == 0:
        apt = shutil.which("apt-get")
        if apt:
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            for command in (
                [apt, "update", "-qq"],
                [apt, "install", "-y", "-qq", "--no-install-recommends", "prometheus"],
            ):
                subprocess.run(command, env=environment, capture_output=True, check=False, timeout=600)
            found = shutil.which("promtool")
    return found


def program() -> str:
    """Return the path of promtool; skip the test without it, or fail it with CI=true."""
    found = _find()
    if found is None:
        _missing()
    return found


def _missing() -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(HINT)
    pytest.skip(HINT)

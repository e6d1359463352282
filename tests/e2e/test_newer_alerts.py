"""A stall pages through the last releases of Prometheus and Alertmanager as it does through older ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import newer
import pytest
from incidents import page_and_resolve

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def test_a_stall_pages_and_resolves(tmp_path: Path) -> None:
    programs = (str(newer.program("prometheus")), str(newer.program("prometheus-alertmanager")))
    page_and_resolve(("stall",), tmp_path, programs)

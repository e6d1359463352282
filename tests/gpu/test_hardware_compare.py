"""What `make gpu` holds the sidecar's values against: agreement, disagreement, and that no field is forgotten."""

from __future__ import annotations

import ast

import pytest
from places import TESTS

from hardware.compare import SMI, Row, compare, of_smi, values
from vllm_sidecar.catalog.gpu_fields import FIELDS_BY_NAME

REFERENCE = TESTS / "hardware" / "reference.py"


def texts() -> set[str]:
    """Return all names of fields in the other program."""
    tree = ast.parse(REFERENCE.read_text())
    parts = {
        node.value.partition("|")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    made = (("ecc_", "_errors_total"), ("nvlink_", "_bytes_total"))
    return parts | {f"{prefix}{part}{suffix}" for prefix, suffix in made for part in parts}


@pytest.mark.parametrize("name", [*FIELDS_BY_NAME])
def test_every_field_is_read_by_the_other_program(name: str) -> None:
    assert name in texts()


def test_names_of_nvidia_smi_are_of_fields() -> None:
    assert {name.partition("|")[0] for name in SMI} <= FIELDS_BY_NAME.keys()


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "agrees"),
    [
        ("power_watts", 610.0, 600.0, 620.0, True),
        ("power_watts", 100.0, 600.0, 620.0, False),
        ("pcie_replays_total", 5.0, 5.0, 5.0, True),
        ("pcie_replays_total", 6.0, 5.0, 5.0, False),
        ("energy_joules_total", 15.0, 10.0, 20.0, True),
        ("energy_joules_total", 21.0, 10.0, 20.0, False),
        ("recovery_action|none", 0.0, 1.0, 1.0, False),
        ("power_watts", None, None, None, True),
        ("power_watts", None, 1.0, 1.0, False),
        ("power_watts", 1.0, None, None, False),
    ],
)
def test_what_agrees(name: str, value: float | None, low: float | None, high: float | None, agrees: bool) -> None:
    assert Row("GPU-0", name, value, low, high).agrees is agrees


def test_values_are_read_off_the_metrics_with_their_label() -> None:
    text = (
        'vllm_sidecar_gpu_power_watts{gpu="0",uuid="GPU-0"} 612.5\n'
        'vllm_sidecar_gpu_throttled{gpu="0",uuid="GPU-0",reason="idle"} 0.0\n'
        'vllm_sidecar_gpu_lost{gpu="0",uuid="GPU-0"} 0.0\n'
    )
    assert values(text, FIELDS_BY_NAME) == {"GPU-0": {"power_watts": 612.5, "throttled|idle": 0.0}}


def test_a_value_that_only_one_side_has_is_a_row_of_its_own() -> None:
    rows = compare(
        {"GPU-0": {"power_watts": 1.0, "processes": 2.0}},
        {"GPU-0": {"processes": 1.0, "energy_joules_total": 5.0, "nvlink_links": 0.0}},
        {"GPU-0": {"processes": 3.0, "energy_joules_total": 6.0, "nvlink_links": 0.0}},
    )
    assert [(row.name, row.value, row.low, row.high) for row in rows] == [
        ("energy_joules_total", None, 5.0, 6.0),
        ("power_watts", 1.0, None, None),
        ("processes", 2.0, 1.0, 3.0),
    ]


@pytest.mark.parametrize(
    ("name", "text", "between"),
    [
        ("power_watts", "612.34", (612.33, 612.35)),
        ("memory_used_bytes", "2", (1048576.0, 3145728.0)),
        ("pcie_link_width", "16", (16.0, 16.0)),
        ("power_watts", "[N/A]", None),
    ],
)
def test_nvidia_smi_rounds_and_says_what_it_does_not_have(
    name: str, text: str, between: tuple[float, float] | None
) -> None:
    found = of_smi(name, text)
    assert found == (None if between is None else pytest.approx(between))

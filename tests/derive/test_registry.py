"""Every derived signal of the catalog has its function, and no function is without a signal."""

from __future__ import annotations

from vllm_sidecar.catalog import DERIVED
from vllm_sidecar.derive.registry import DERIVATIONS


def test_each_derived_signal_is_bound_to_a_function_and_nothing_else_is() -> None:
    signals = {entry.signal.name for entry in DERIVED}

    assert signals - DERIVATIONS.keys() == set(), "bind them in derive/registry.py"
    assert DERIVATIONS.keys() - signals == set(), (
        "describe them in catalog/derived.py, or delete them from derive/registry.py"
    )

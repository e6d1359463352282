"""Pods of workers, which never have an HTTP server: when nothing is polled."""

from __future__ import annotations

import pytest

from vllm_sidecar.config import Config, ConfigError, load


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWS_WORKER_INDEX", raising=False)


@pytest.mark.parametrize(("index", "headless"), [("0", False), ("1", True), ("12", True), ("", False), ("x", False)])
def test_by_default_a_worker_of_a_leaderworkerset_polls_nothing(
    monkeypatch: pytest.MonkeyPatch, index: str, headless: bool
) -> None:
    monkeypatch.setenv("LWS_WORKER_INDEX", index)

    assert Config().headless is headless
    assert len(Config().all_targets) == (0 if headless else 1)
    assert load(None, {"vllm.url": "http://localhost:9000"}).headless is headless


def test_without_the_variable_there_is_a_server() -> None:
    assert Config().headless is False


@pytest.mark.parametrize("value", [True, False])
def test_the_setting_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch, value: bool) -> None:
    monkeypatch.setenv("LWS_WORKER_INDEX", "0" if value else "1")

    assert load(None, {"vllm.headless": value}).headless is value


@pytest.mark.parametrize("vllm", [{"url": "http://leader:8000"}, {"url": "https://10.0.0.1"}])
def test_a_worker_that_was_told_to_watch_another_machine_watches_it(
    monkeypatch: pytest.MonkeyPatch, vllm: dict[str, str]
) -> None:
    monkeypatch.setenv("LWS_WORKER_INDEX", "1")

    assert Config.model_validate({"vllm": vllm}).headless is False
    assert Config.model_validate({"vllm": {**vllm, "unix_socket": "/run/vllm.sock"}}).headless is True
    assert Config.model_validate({"targets": [{"name": "a", **vllm}]}).headless is False


def test_a_list_of_targets_has_no_such_key() -> None:
    with pytest.raises(ConfigError, match=r"targets\.0\.headless: unknown key"):
        load(None, {}, {"VLLM_SIDECAR_TARGETS": "[{name: a, headless: true}]"})


def test_the_simulator_is_a_server() -> None:
    with pytest.raises(ConfigError, match=r"gpu\.simulate: got true; allowed: false with vllm\.headless"):
        load(None, {"vllm.headless": True, "gpu.simulate": True})

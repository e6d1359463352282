"""How facts of several sources become one identity, and what counts as a change."""

from __future__ import annotations

import pytest

from vllm_sidecar.vllm.probes.identity import Facts, FactSource, IdentityKeeper, ModelCard, ServerIdentity

TINY = ModelCard("tiny", "/models/tiny", None, 2048)
ADAPTER = ModelCard("ad1", "/adapters/1", "tiny", None)


def keeper(*times: float) -> IdentityKeeper:
    clock = iter(times)
    return IdentityKeeper(lambda: next(clock))


def test_at_first_nothing_is_known() -> None:
    assert keeper().identity == ServerIdentity()


def test_what_the_running_engine_says_beats_what_it_was_asked_for() -> None:
    known = keeper()
    for i, source in enumerate(
        (FactSource.SERVER_INFO, FactSource.MODELS, FactSource.CACHE_CONFIG, FactSource.PROC, FactSource.CONFIG),
        start=1,
    ):
        known.update(source, Facts(flags={"block_size": i, "seed": i} if i > 1 else {"block_size": i}))
    assert known.identity.flags == {"block_size": 1, "seed": 2}
    assert known.identity.flag_sources == {"block_size": "/server_info", "seed": "/v1/models"}
    assert known.identity.changes == 0


def test_version_models_and_load_are_shown() -> None:
    known = keeper()
    known.update(FactSource.VERSION, Facts(version="0.32.0", rust_frontend_version="0.1"))
    known.update(FactSource.MODELS, Facts(models=(TINY, ADAPTER)))
    known.update(FactSource.LOAD, Facts(requests_in_flight=3.0))
    identity = known.identity
    assert (identity.version, identity.rust_frontend_version) == ("0.32.0", "0.1")
    assert identity.models == (TINY, ADAPTER)
    assert identity.requests_in_flight == 3.0


def test_learning_is_no_change_and_a_different_value_is_one() -> None:
    known = keeper(1700.0, 1800.0, 1900.0)
    known.update(FactSource.VERSION, Facts(version="0.31.0"))
    known.update(FactSource.CACHE_CONFIG, Facts(flags={"block_size": 16}))
    known.update(FactSource.CACHE_CONFIG, Facts(flags={"block_size": 16, "kv_cache_dtype": "auto"}))
    assert (known.identity.changes, known.identity.last_change) == (0, None)
    known.update(FactSource.CACHE_CONFIG, Facts(flags={"block_size": 32, "kv_cache_dtype": "fp8"}))
    assert (known.identity.changes, known.identity.last_change) == (1, 1700.0)
    known.update(FactSource.VERSION, Facts(version="0.32.0"))
    assert (known.identity.changes, known.identity.last_change) == (2, 1800.0)


def test_a_better_source_that_says_it_in_other_words_is_no_change() -> None:
    known = keeper()
    known.update(FactSource.PROC, Facts(flags={"dtype": "auto"}))
    known.update(FactSource.SERVER_INFO, Facts(flags={"dtype": "bfloat16"}))
    known.forget(FactSource.SERVER_INFO)
    assert known.identity.flags == {"dtype": "auto"}
    assert known.identity.changes == 0


def test_a_value_that_was_away_and_comes_back_different_is_a_change() -> None:
    known = keeper(5.0)
    known.update(FactSource.VERSION, Facts(version="0.31.0"))
    known.forget(FactSource.VERSION)
    assert known.identity.version is None
    known.update(FactSource.VERSION, Facts(version="0.32.0"))
    assert known.identity.changes == 1


def test_adapters_come_and_go_without_a_change_or_a_new_fingerprint() -> None:
    known = keeper()
    known.update(FactSource.MODELS, Facts(models=(TINY,)))
    before = known.identity.fingerprint
    known.update(FactSource.MODELS, Facts(models=(TINY, ADAPTER)))
    assert known.identity.models == (TINY, ADAPTER)
    assert known.identity.fingerprint == before
    assert known.identity.changes == 0


def test_another_base_model_is_a_change() -> None:
    known = keeper(5.0)
    known.update(FactSource.MODELS, Facts(models=(TINY,)))
    known.update(FactSource.MODELS, Facts(models=(ModelCard("tiny", "/models/tiny", None, 4096),)))
    assert known.identity.changes == 1


def test_the_fingerprint_has_12_digits_and_does_not_depend_on_order() -> None:
    one, other = keeper(), keeper()
    other_tiny = ModelCard("alias", "/models/tiny", None, 2048)
    one.update(FactSource.VERSION, Facts(version="0.32.0"))
    one.update(FactSource.MODELS, Facts(models=(TINY, other_tiny), flags={"seed": 1, "dtype": "auto"}))
    other.update(FactSource.PROC, Facts(flags={"dtype": "auto", "seed": 1}))
    other.update(FactSource.MODELS, Facts(models=(other_tiny, TINY)))
    other.update(FactSource.VERSION, Facts(version="0.32.0"))
    assert one.identity.fingerprint == other.identity.fingerprint
    # A changed digest moves every user's fingerprint label: say so in the CHANGELOG.
    assert one.identity.fingerprint == "9d08d8ce5b48"


def test_while_held_a_rollout_is_collected_into_one_change() -> None:
    known = keeper(9.0)
    known.update(FactSource.VERSION, Facts(version="0.31.0"))
    known.update(FactSource.MODELS, Facts(models=(TINY,)))
    before = known.identity.fingerprint
    known.hold()
    known.update(FactSource.VERSION, Facts(version="0.32.0"))
    known.update(FactSource.MODELS, Facts(models=(ModelCard("big"),)))
    assert known.identity.version == "0.32.0"
    assert (known.identity.fingerprint, known.identity.changes) == (before, 0)
    known.settle()
    known.settle()
    assert known.identity.fingerprint != before
    assert (known.identity.changes, known.identity.last_change) == (1, 9.0)


def test_errors_are_kept_by_source_until_it_answers() -> None:
    known = keeper()
    known.fail(FactSource.SERVER_INFO, "http_404")
    known.fail(FactSource.LOAD, "timeout")
    assert known.identity.source_errors == {"/load": "timeout", "/server_info": "http_404"}
    known.fail(FactSource.LOAD, None)
    assert known.identity.source_errors == {"/server_info": "http_404"}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ((), None),
        ((TINY,), "tiny"),
        ((TINY, ADAPTER), "tiny"),
        ((TINY, ModelCard("alias", "/models/tiny")), "tiny"),
        ((TINY, ModelCard("other", "/models/other")), None),
        ((ModelCard("a"), ModelCard("b")), None),
    ],
    ids=["none known", "one", "with an adapter", "with an alias", "two", "two without roots"],
)
def test_the_served_model_is_the_one_base_model(models: tuple[ModelCard, ...], expected: str | None) -> None:
    assert ServerIdentity(models=models).served_model == expected

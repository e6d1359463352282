"""The state of an answer: what is right, what is wrong whatever the past was, and what only differs from it."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_sidecar.canary.baseline import EQUAL_ANSWERS, Baseline
from vllm_sidecar.canary.output import Fingerprint, fingerprint, is_garbage, state_of
from vllm_sidecar.canary.stream import Answer
from vllm_sidecar.catalog.canary import OutputState
from vllm_sidecar.config import CanaryPrompt

PARIS = Answer(["Paris", "."], [10, 11], (1, 2, 3), "stop")


def prompt(**keys: Any) -> CanaryPrompt:
    return CanaryPrompt.model_validate({"name": "capital", "prompt": "capital of France?", **keys})


def state(answer: Answer, known: Answer | None = None, *, matched: bool | None = None, **keys: Any) -> OutputState:
    asked = prompt(**keys)
    before = None if known is None else fingerprint(known, asked.tolerance_tokens)
    return state_of(asked, answer, fingerprint(answer, asked.tolerance_tokens), before, matched=matched)


@pytest.mark.parametrize(
    ("answer", "keys", "expected"),
    [
        (PARIS, {}, OutputState.LEARNING),
        (PARIS, {"expect": {"text": "Paris."}}, OutputState.EXPECTED),
        (PARIS, {"expect": {"text": "Rome"}}, OutputState.UNEXPECTED),
        (PARIS, {"expect": {"pattern": "(?i)paris"}, "matched": True}, OutputState.LEARNING),
        (PARIS, {"expect": {"pattern": "^Rome"}, "matched": False}, OutputState.UNEXPECTED),
        (PARIS, {"expect": {"pattern": "(P|Pa|a)+x"}, "matched": None}, OutputState.LEARNING),
        (PARIS, {"expect": {"hash": fingerprint(PARIS, 0).answer}}, OutputState.EXPECTED),
        (PARIS, {"expect": {"hash": "0" * 12}}, OutputState.UNEXPECTED),
        (Answer([], [], (), "stop"), {}, OutputState.EMPTY),
        (
            Answer([" ", "\n"], [1, 2], (), "stop"),
            {"expect": {"pattern": "Paris"}, "matched": False},
            OutputState.EMPTY,
        ),
        (Answer(["a", "b"], [1, 2], (), "length"), {"ends": True}, OutputState.ENDLESS),
        (Answer(["Paris"], [10], (), "length"), {"ends": True, "expect": {"text": "Paris"}}, OutputState.ENDLESS),
        (Answer(["Paris"] * 5, [1, 2, 3, 4, 5], (), "stop"), {"max_tokens": 4}, OutputState.ENDLESS),
        (Answer(["Paris", "<|im_end|>"], [10, 9], (), "stop"), {}, OutputState.CONTROL_TOKENS),
        (
            Answer(["Paris</s>"], [10, 9], (), "stop"),
            {"expect": {"pattern": "Paris"}, "matched": True},
            OutputState.CONTROL_TOKENS,
        ),
        (Answer(["</s>"], [9], (), "stop"), {"expect": {"text": "</s>"}}, OutputState.EXPECTED),
        (Answer(["\ufffd", "x", "\ufffd", "y"], [1, 2, 3, 4], (), "stop"), {}, OutputState.GARBAGE),
        (Answer(["!"] * 16, [0] * 16, (), "length"), {}, OutputState.GARBAGE),
    ],
    ids=lambda value: value.value if isinstance(value, OutputState) else "",
)
def test_an_answer_without_a_baseline_has_a_state(answer: Answer, keys: dict[str, Any], expected: OutputState) -> None:
    assert state(answer, **keys) is expected


@pytest.mark.parametrize(
    ("answer", "keys", "expected"),
    [
        (PARIS, {}, OutputState.EXPECTED),
        (Answer(["Lyon", "."], [20, 11], (1, 2, 3), "stop"), {}, OutputState.CHANGED),
        (Answer(["Paris", "!"], [10, 12], (1, 2, 3), "stop"), {"tolerance_tokens": 1}, OutputState.EXPECTED),
        (Answer(["Paris", "!"], [10, 12], (1, 2, 3), "stop"), {}, OutputState.CHANGED),
        (Answer(["Paris", "."], [10, 11], (1, 2, 4), "stop"), {}, OutputState.TEMPLATE_CHANGED),
        (Answer(["Paris", "!"], [10, 12], (1, 2, 3), "length"), {}, OutputState.ENDLESS),
    ],
)
def test_an_answer_is_compared_with_its_baseline(answer: Answer, keys: dict[str, Any], expected: OutputState) -> None:
    assert state(answer, PARIS, **keys) is expected


def test_without_token_ids_words_are_compared() -> None:
    old, new = Answer(["Paris is the capital."], [], (), "stop"), Answer(["Paris is a city."], [], (), "stop")

    assert state(new, old) is OutputState.CHANGED
    assert state(new, old, tolerance_tokens=2) is OutputState.EXPECTED


@pytest.mark.parametrize(
    ("text", "tokens", "garbage"),
    [
        ("ha ha ha", [1, 1, 1], False),
        ("no " * 8, [], True),
        ("1 2 3 " + "0 " * 8 + "4 5 6 7 8 9 a b c", [], False),
        ("a smile \ufffd", [1, 2, 3], False),
        ("a smile \ufffd\ufffd\ufffd", [1, 2, 3], False),
        ("\ufffda\ufffdb", [1, 2, 3], True),
    ],
)
def test_repetition_and_replacement_characters_are_garbage(text: str, tokens: list[int], garbage: bool) -> None:
    assert is_garbage(text.strip(), tokens) is garbage


A, B = Fingerprint("a" * 12, "", ended=True), Fingerprint("b" * 12, "", ended=True)


def learned(baseline: Baseline, release: object, *answers: Fingerprint) -> Baseline:
    for answer in answers:
        baseline.use_release(release)
        baseline.learn(answer)
    return baseline


def test_equal_answers_in_a_row_make_a_baseline_and_others_do_not() -> None:
    unstable = learned(Baseline(), 1, A, A, B, A, A, B)
    stable = learned(unstable, 1, *[B] * (EQUAL_ANSWERS - 1))

    assert stable.known == B
    assert stable.changes == 0


def test_a_release_with_another_answer_is_one_change_and_one_with_the_same_is_none() -> None:
    baseline = learned(Baseline(), 1, A, A, A)

    assert learned(baseline, 2, A, A, A).changes == 0
    assert learned(baseline, 3, B, B, B).changes == 1
    assert baseline.known == B
    assert baseline.before == A


def test_a_release_that_never_had_a_baseline_does_not_hide_the_one_before() -> None:
    baseline = learned(Baseline(), 1, A, A, A)

    assert learned(baseline, 2, B).known is None
    assert learned(baseline, 3, B, B, B).changes == 1

"""Requests of real clients to the simulator, as load-testing tools send them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.simulator.web import Simulator, make_app

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.io


async def ask(bodies: Sequence[dict[str, object]]) -> tuple[Simulator, list[list[str]]]:
    """Send requests one after the other to an idle server; return it, and the texts of each answer."""
    settings = {"traffic.rate": 0.0, "server.max_loras": 1, "server.adapters": 1}
    simulator = Simulator(read_script("healthy 1h -> healthy", None, settings))
    texts = []
    async with TestServer(make_app(simulator)) as server, aiohttp.ClientSession() as session:
        for body in bodies:
            whole = {"model": simulator.look.settings.model_name, "stream": True, "max_tokens": 4, **body}
            async with session.post(server.make_url("/v1/completions"), json=whole) as answer:
                lines = (await answer.text()).splitlines()
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            texts.append([each["choices"][0]["text"] for each in events if each["choices"][0]["text"]])
    return simulator, texts


def counter(simulator: Simulator, name: str) -> float:
    return sum(engine.meters.counters[name] for engine in simulator.look.engines)


async def test_prompts_of_token_ids_have_these_tokens_and_share_equal_beginnings() -> None:
    shared = list(range(1000, 1160))
    simulator, _ = await ask([{"prompt": shared + [one] * 41} for one in (1, 2)] + [{"prompt": shared[:80]}])
    assert counter(simulator, "prompt_tokens") == 201 + 201 + 80
    assert counter(simulator, "prefix_hits") == 160 + 64, "the last token is always computed"


async def test_texts_share_the_blocks_of_equal_beginnings() -> None:
    shared = "You answer in one short sentence, and never guess. " * 8
    simulator, _ = await ask([{"prompt": shared + end * 60} for end in ("one ", "two ")] + [{"prompt": ""}])
    assert counter(simulator, "prompt_tokens") == 2 * (len(shared) // 4 + 60)
    assert counter(simulator, "prefix_hits") == len(shared) // 4 // 16 * 16


async def test_a_text_of_short_words_has_a_token_for_each() -> None:
    simulator, _ = await ask([{"prompt": "a b " * 50}])
    assert counter(simulator, "prompt_tokens") == 100


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_length_of_an_answer_has_two_names(name: str) -> None:
    _, texts = await ask([{"prompt": "a", "ignore_eos": True, "max_tokens": None, name: 9}])
    assert [len(each) for each in texts] == [9]


async def test_adapters_share_no_blocks_with_their_base_model() -> None:
    prompt = list(range(1000, 1160))
    simulator, _ = await ask([{"prompt": prompt}, {"prompt": prompt, "model": "adapter-1"}])
    assert counter(simulator, "prefix_hits") == 0


async def test_an_answer_that_ignores_its_end_has_all_its_tokens() -> None:
    _, texts = await ask([{"prompt": "a"}, {"prompt": "a", "ignore_eos": True, "max_tokens": 7}])
    assert [len(each) for each in texts] == [2, 7]


@pytest.mark.parametrize("prompt", [[], ["a"], [1.5], {"a": 1}, [True]])
async def test_another_prompt_is_refused(prompt: object) -> None:
    simulator, texts = await ask([{"prompt": prompt}])
    assert texts == [[]]
    assert counter(simulator, "prompt_tokens") == 0

"""The name of the model that a server serves; values only."""

from __future__ import annotations

import pytest
from readings import MODEL, TARGET, readings

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.series.readings import Group
from vllm_sidecar.vllm.probes.identity import ModelCard as Card
from vllm_sidecar.vllm.probes.identity import ServerIdentity
from vllm_sidecar.vllm.served_model import ServedModel

CARDS = (Card("card", "/models/card"), Card("alias", "/models/card"), Card("lora", None, "card"))


def of(*models: str) -> dict[Group, dict]:
    return {Group(Scope.ENGINE, (model, "0")): {} for model in models}


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (ServerIdentity(), ""),
        (ServerIdentity(flags={"model": "org/base"}), "org/base"),
        (ServerIdentity(flags={"model": "org/base", "served_model_name": "chat"}), "chat"),
        (ServerIdentity(flags={"served_model_name": ""}), ""),
        (ServerIdentity(models=CARDS, flags={"served_model_name": "chat"}), "card"),
    ],
    ids=["nothing tells", "the model", "its served name", "an empty name", "what the server itself lists"],
)
def test_before_the_first_answer_it_is_what_flags_and_probes_say(identity: ServerIdentity, expected: str) -> None:
    assert ServedModel().name(identity) == expected


def test_the_series_of_engines_go_before_all_else_and_are_remembered() -> None:
    served, told = ServedModel(), ServerIdentity(models=CARDS, flags={"model": "org/base"})
    served.observe(readings({**of("tiny"), MODEL: {}, TARGET: {}}))
    assert served.name(told) == "tiny"
    served.observe(readings({TARGET: {}}))
    assert served.name(ServerIdentity()) == "tiny"


def test_of_several_models_the_first_is_kept_as_long_as_it_is_served() -> None:
    served = ServedModel()
    for models, expected in [("bc", "b"), ("abc", "b"), ("ac", "a"), ("d", "d")]:
        served.observe(readings(of(*models)))
        assert (served.name(ServerIdentity()), served.all) == (expected, tuple(models))
    served.observe(readings({TARGET: {}}))
    assert served.all == ("d",)

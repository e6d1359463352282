"""The list of words to avoid: documents keep to it, it finds what it is for, and leaves plain English alone."""

from __future__ import annotations

import pytest
from vocabulary import KINDS, Text, offences, prose


def found(text: str) -> list[str]:
    return offences([Text("here", text)])


def test_everything_that_is_held_to_the_list_keeps_to_it() -> None:
    assert [line for kind in KINDS for line in offences(kind())] == []


def test_every_kind_of_text_can_be_read() -> None:
    assert [kind.__name__ for kind in KINDS if not any(text.text.strip() for text in kind())] == []


@pytest.mark.parametrize(
    "text",
    [
        "What hangs is not observed.",
        "All signals stand in one catalog.",
        "A flag that no source tells.",
        "a threshold that is no edge",
        "Else the bucket is split.",
        "for ever",
        "A server that is down keeps it back.",
        "It begins anew at a restart.",
        "The board comes with the package.",
        "A file that is generated no more.",
        "where a driver is there, and not",
        "The counter goes on after a restart.",
        "A number in place of the default.",
        "Mend the file; nothing is felt in the night.",
        "The names are normalised.",
        "A call that is cancelled when NVML is initialised.",
    ],
)
def test_a_word_to_avoid_is_found(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no library.",
        "Clients give up.",
        "It is no longer exported, and no more than five are kept.",
        "Everything else works; nobody else should read it, nor elsewhere.",
        "What is the throughput?",
        "The dashboards are onboard.",
        "CI stands for continuous integration.",
        "This comes from reading their sources.",
        "Give the container more memory. What to do:",
    ],
)
def test_plain_english_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_code_links_and_generated_parts_of_a_document_are_left_out() -> None:
    document = (
        "A `stall_witness` of [it](http://edge.example/board).\n```sh\nelse\n```\n"
        "<!-- generated: x -->\n\nIt stands here.\n\n<!-- end generated -->\nIt stands there.\n"
    )
    lines = [Text(str(number), text) for number, text in prose(document)]

    assert [line.partition(":")[0] for line in offences(lines)] == ["10"]

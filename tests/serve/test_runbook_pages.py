"""Runbooks as pages: what is filled in, what is refused, and what Markdown becomes."""

from __future__ import annotations

import re
import shlex
import subprocess
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest
from rows import for_each

from vllm_sidecar.catalog.shipped import runbooks as shipped_runbooks
from vllm_sidecar.serve.page import runbooks
from vllm_sidecar.serve.page.runbooks import EXAMPLE, MOST_KEPT, filled, runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.io

BOOK = """# VllmX

```sh
export CLUSTER=<cluster> NAMESPACE=<namespace> POD="the pod"  # from the alert
export MODEL=... INSTANCE=... NODE=...
kubectl -n $NAMESPACE get pod $POD
```

See [VllmY](VllmY.md#cause), [vLLM](https://docs.vllm.ai/) and <b onclick=alert(1)>this</b>.

| a | b |
| --- | --- |
| 1 | 2 |

```sh
export POD=other
```
"""
GIVEN = {
    "cluster": "eu_1",
    "namespace": "chat",
    "pod": "llama-0",
    "model_name": "meta-llama/Llama-3.1_8B:fp8",
    "instance": "[fd00::1]:10190",
    "node": "gpu-7.example",
}


@pytest.fixture(autouse=True)
def books(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    texts = MappingProxyType(
        {"README.md": "# Runbooks\n\nText.\n", "VllmX.md": BOOK, "VllmY.md": "# VllmY\n\nNo block.\n"}
    )
    monkeypatch.setattr(runbooks, "runbooks", lambda: texts)
    runbooks._page.cache_clear()
    yield
    runbooks._page.cache_clear()


def page(name: str, **query: str) -> str:
    found = runbook(name, query)
    assert found is not None
    return found.body.decode()


def exported(text: str) -> dict[str, str]:
    """Run the first block as far as it exports, and return what the shell makes of it."""
    block = text.partition("```sh\n")[2].partition("kubectl")[0]
    names = ["CLUSTER", "NAMESPACE", "POD", "MODEL", "INSTANCE", "NODE"]
    shown = "; ".join(f'printf "%s\\n" "${name}"' for name in names)
    done = subprocess.run(["sh", "-ec", block + shown], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def test_queries_ask_for_what_the_alert_names_and_nothing_else_of_them_changes() -> None:
    book = '```promql\nup{namespace="llm",pod="chat-0",source="llm"} and x{model_name="chat",pod="other"}\n```\nllm\n'
    text = filled(book, {"namespace": "prod", "pod": "llama-0"})
    assert text == (
        '```promql\nup{namespace="prod",pod="llama-0",source="llm"} and x{model_name="chat",pod="other"}\n```\nllm\n'
    )


@for_each("name", [name for name in shipped_runbooks() if name.startswith("Vllm")])
def test_every_runbook_is_filled_in_wherever_it_names_the_example(name: str) -> None:
    given = {
        "namespace": "n1",
        "pod": "p1",
        "model_name": "m1",
        "instance": "i1",
        "node": "o1",
        "cluster": "c1",
        "uuid": "u1",
    }
    text = filled(shipped_runbooks()[name], given)
    for label, value in EXAMPLE.items():
        assert f'{label}="{value}"' not in text
    first = text[: text.index("## ")]
    assert not re.search(r"(NAMESPACE|POD|MODEL|INSTANCE|UUID)=(llm|chat|chat-0|10\.0\.0\.1:10190|GPU-0)\b", first)
    block = re.search(r"```sh\n(.*?)```", first, re.DOTALL)
    if block:
        subprocess.run(["bash", "-n"], input=block[1], text=True, check=True)
        assert block[1].count("$(") == re.search(r"```sh\n(.*?)```", shipped_runbooks()[name], re.DOTALL)[1].count("$(")


def test_the_first_block_exports_what_the_alert_names() -> None:
    assert exported(filled(BOOK, GIVEN)) == {
        "CLUSTER": "eu_1",
        "NAMESPACE": "chat",
        "POD": "llama-0",
        "MODEL": "meta-llama/Llama-3.1_8B:fp8",
        "INSTANCE": "[fd00::1]:10190",
        "NODE": "gpu-7.example",
    }
    assert "# from the alert" in filled(BOOK, GIVEN)
    assert "get pod $POD" in filled(BOOK, GIVEN)


def test_what_is_not_given_stays_and_so_do_later_blocks() -> None:
    text = filled(BOOK, {"pod": "llama-0"})
    assert "export CLUSTER=<cluster> NAMESPACE=<namespace> POD=llama-0  # from the alert" in text
    assert text.endswith("export POD=other\n```\n")
    assert filled("# No block\n", GIVEN) == "# No block\n"


@for_each(
    ("key", "value"),
    [
        ("pod", "<script>alert(1)</script>"),
        ("pod", "a; rm -rf /"),
        ("pod", "$(reboot)"),
        ("pod", "A"),
        ("pod", "-a"),
        ("pod", "a" * 254),
        ("pod", "a\nb"),
        ("pod", "a\n"),
        ("pod", ""),
        ("namespace", "{{ $labels.namespace }}"),
        ("node", "a b"),
        ("instance", "a`b`"),
        ("cluster", 'a"b'),
        ("model_name", "a'b"),
        ("model_name", "a&b"),
        ("model_name", "a" * 254),
        ("other", "x"),
    ],
)
def test_what_can_be_no_name_is_left_out(key: str, value: str) -> None:
    assert page("VllmX", **{key: value}) == page("VllmX")


def test_html_of_a_runbook_is_text_and_its_links_to_others_keep_the_names() -> None:
    body = page("VllmX", **GIVEN)
    assert "&lt;b onclick=alert(1)&gt;" in body
    query = "?namespace=chat&amp;pod=llama-0&amp;model_name=meta-llama/Llama-3.1_8B:fp8"
    assert f'<a href="VllmY.md{query}&amp;' in body
    assert 'node=gpu-7.example&amp;cluster=eu_1#cause">VllmY</a>' in body
    assert '<a href="https://docs.vllm.ai/">' in body
    assert "<td>2</td>" in body
    assert f"export MODEL={shlex.quote(GIVEN['model_name'])} " in body


def test_the_index_begins_with_the_general_runbook_and_lists_all() -> None:
    body = page("")
    assert "<h1>Runbooks</h1>" in body
    assert '<li><a href="VllmX.md">VllmX</a></li>\n<li><a href="VllmY.md">VllmY</a></li>' in body
    assert page("README") == page("README.md") != body


def test_neither_unknown_names_nor_many_pods_fill_the_memory() -> None:
    for number in range(2 * MOST_KEPT):
        assert runbook(f"Vllm{number}", {}) is None
        page("VllmX", pod=f"p-{number}")
    assert runbooks._page.cache_info().currsize == MOST_KEPT

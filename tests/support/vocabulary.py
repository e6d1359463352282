"""Words that documents and texts of the program avoid, each with what to write instead.

    python tests/support/vocabulary.py   # as `make check` runs it

Code, links, and parts of documents that are generated are left out: the texts behind generated parts are checked where
they are written.
"""

from __future__ import annotations

import argparse
import re
import sys
import tokenize
from typing import TYPE_CHECKING, NamedTuple

from places import EXPORTER, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


PLAIN_FOLDERS = (
    "canary",
    "catalog",
    "config",
    "derive",
    "exposition",
    "generate",
    "gpu",
    "quantiles",
    "serve",
    "series",
    "simulator",
    "tools",
    "vllm",
)
"""Folders of the package whose docstrings and comments are held to the list."""


class Rule(NamedTuple):
    """A word to avoid, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str


class Text(NamedTuple):
    """A text that people read, and where it is."""

    where: str
    text: str


def _rule(pattern: str, instead: str) -> Rule:
    return Rule(re.compile(pattern, re.IGNORECASE), instead)


RULES = (
    _rule(r"\blife\b|\b(begins?|made|cut) anew\b|\banew\b", "process restart, counter reset, again"),
    _rule(r"\bpulses?\b|\bheartbeats?\b", "progress"),
    _rule(r"\btall(y|ies)\b", "SLO counters"),
    _rule(r"\bpaces?\b", "poll interval, throttle"),
    _rule(r"\bwitness(es)?\b", "corroborating signal"),
    _rule(r"\bverdicts?\b", "state"),
    _rule(r"\bremed(y|ies)\b", "hint"),
    _rule(r"\bedges?\b", "bucket bound"),
    _rule(r"\bboards?\b", "dashboard"),
    _rule(r"\bdrill(s|ed)?\b|\brehears(e|ed|es|al|als)\b", "end-to-end alert test, scenario test"),
    _rule(r"\b(kept|keeps?|held|holds?) (\w+ )?back\b", "inhibited"),
    _rule(r"(?:^|(?<=[.!] ))(?-i:What|Who|Whoever) (?!to\b)[^?|]*?[.;:](?= |$)", "a noun as subject"),
    _rule(r"\b(tells?|told)\b", "is reported, is exposed, shows"),
    _rule(r"\b(speaks?|spoke|spoken)\b", "exposes, uses"),
    _rule(r"\bknows\b|\bnobody knows\b", "is known, contains, a name for what is known"),
    _rule(r"\bbeliev(e|es|ed)\b", "assumes, uses"),
    _rule(r"\bstands?\b(?! for\b)", "is listed, is, remains"),
    _rule(r"\bgives\b(?! up\b)", "exposes, returns, results in"),
    _rule(r"\bcomes\b(?! from\b)", "arrives"),
    _rule(r"\b(is|are) there(?=[.,;:]|$)", "exists, is exposed"),
    _rule(r"(?<!there )\b(is|are|was|were) no (?!longer\b|more than\b)", "is not a, are not"),
    _rule(r"\bno more\b(?! than\b)", "no longer"),
    _rule(r"(?<!every)(?<!no)(?<!any)(?<!some)(?<!thing )(?<!body )(?<!one )\belse\b(?!where)", "otherwise"),
    _rule(r"\bbeside\b", "next to, besides"),
    _rule(r"\bfor want of\b", "because ... is missing"),
    _rule(r"\bfor ever\b", "forever"),
    _rule(r"\bhardly\b", "rarely, barely"),
    _rule(r"\baloud\b", "with a warning"),
    _rule(r"\bgets? up\b", "is paged"),
    _rule(r"\bin vain\b", "without an answer"),
    _rule(r"\b(go|goes|going|went) on\b(?! (a|an|the)\b)", "continues, keeps"),
    _rule(r"\bany more\b(?! than\b)", "anymore, no longer"),
    _rule(r"\bin place of\b", "instead of"),
    _rule(r"\bmend(s|ed|ing)?\b", "fix"),
    _rule(r"\bis felt\b|\bfeels? (it|nothing)\b|\busers feel\b", "affects, are affected"),
    _rule(r"\bin the night\b", "at night"),
    _rule(r"\b\w*(utili|initiali|normali|tokeni|seriali|quanti|optimi)s(e|ed|es|ing|ation)\b", "US spelling"),
    _rule(r"\bcancelled\b|\blabelled\b|\b(neighb|behavi|col)ours?\b", "US spelling"),
)


def offences(texts: Iterable[Text]) -> list[str]:
    """Return one line for each word to avoid: where it is, the word, and what to write instead."""
    return [
        f"{where}: {found[0]!r}: {rule.instead}"
        for where, text in texts
        for rule in RULES
        for found in rule.pattern.finditer(text)
    ]


def prose(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a document that people wrote and read, without code and links, with their numbers."""
    without_blocks = re.sub(
        r"^```.*?^```|<!-- generated: .*?<!-- end generated -->|<!--.*?-->",
        lambda found: re.sub(r"[^\n]", "", found[0]),
        markdown,
        flags=re.DOTALL | re.MULTILINE,
    )
    for number, line in enumerate(without_blocks.splitlines(), 1):
        text = re.sub(r"`[^`]*`", "x", line)
        text = re.sub(r"\]\([^)]*\)", "]", text)
        yield number, re.sub(r"[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}", "", text).lstrip("-#|>0123456789. ")


def _markdown(*patterns: str) -> Iterator[Text]:
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        for number, line in prose(path.read_text()):
            yield Text(f"{path.relative_to(ROOT)}:{number}", line)


def documents() -> Iterator[Text]:
    """README, docs, and the documents of folders."""
    return _markdown(
        "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md", "rules/README.md", "dashboards/README.md"
    )


def runbooks() -> Iterator[Text]:
    """The runbooks."""
    return _markdown("rules/runbooks/*.md")


def help_texts() -> Iterator[Text]:
    """HELP of every metric, and why Prometheus could not compute the derived ones."""
    from vllm_sidecar.catalog import SIGNALS

    for name, signal in SIGNALS.items():
        yield Text(f"HELP {name}", signal.help)
        yield Text(f"why_not_promql {name}", signal.why_not_promql or "")


def alert_texts() -> Iterator[Text]:
    """Summaries and descriptions of the alerts, with the default thresholds."""
    from vllm_sidecar.generate.rules import alert_groups
    from vllm_sidecar.generate.settings.thresholds import Thresholds
    from vllm_sidecar.generate.slo_rules import slo_rules

    thresholds = Thresholds()
    for group in (*alert_groups(thresholds), *slo_rules(thresholds).groups):
        for rule in group["rules"]:
            for key, text in rule.get("annotations", {}).items():
                if not key.endswith("_url"):
                    yield Text(f"{rule['alert']} {key}", _outside_actions(text))


def threshold_texts() -> Iterator[Text]:
    """Comments of the thresholds, which users read as their reference."""
    for number, line in enumerate((ROOT / "rules" / "thresholds.yaml").read_text().splitlines(), 1):
        yield Text(f"rules/thresholds.yaml:{number}", line.partition("#")[2])


def dashboard_texts() -> Iterator[Text]:
    """Titles and descriptions of dashboards and panels."""
    from vllm_sidecar.catalog.dashboards import DASHBOARDS

    for board in DASHBOARDS:
        yield Text(board.uid, board.help)
        for panel in board.panels:
            yield Text(f"{board.uid} {panel.title}", f"{panel.title}. {panel.help}")


def hints() -> Iterator[Text]:
    """What to do about each reason of a failed poll."""
    from vllm_sidecar.catalog.reasons import GPU_HINTS, HINTS

    for reason, text in (*HINTS.items(), *GPU_HINTS.items()):
        yield Text(f"hint {reason}", text)


def settings() -> Iterator[Text]:
    """Descriptions of the keys of the configuration, and the comments of its example."""
    from vllm_sidecar.config.overrides import keys

    for path, field in keys():
        yield Text(f"key {'.'.join(path)}", field.description or "")
    for number, line in enumerate((ROOT / "exporter" / "config.example.yaml").read_text().splitlines(), 1):
        yield Text(f"config.example.yaml:{number}", line.partition("#")[2])


def command_help() -> Iterator[Text]:
    """Help texts of all commands and flags."""
    from vllm_sidecar import cli

    yield from _help_of(cli.parser(), "vllm-sidecar")


def _help_of(parser: argparse.ArgumentParser, program: str) -> Iterator[Text]:
    yield Text(program, f"{parser.description or ''} {parser.epilog or ''}")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield Text(f"{program} {choice.dest}", choice.help or "")
            for name, command in action.choices.items():
                yield from _help_of(command, f"{program} {name}")
        elif action.help and action.help is not argparse.SUPPRESS:
            yield Text(f"{program} {'/'.join(action.option_strings) or action.dest}", action.help)


def comments() -> Iterator[Text]:
    """Docstrings and comments of the package's top modules, and of the folders that are held to the list."""
    package = EXPORTER / "vllm_sidecar"
    in_folders = (path for folder in PLAIN_FOLDERS for path in (package / folder).rglob("*.py"))
    for path in sorted((*package.glob("*.py"), *in_folders)):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
                    text = re.sub(r"`[^`]*`", "x", token.string.strip('"#'))
                    yield Text(f"{path.relative_to(ROOT)}:{token.start[0]}", " ".join(text.split()))


def _outside_actions(text: str) -> str:
    return re.sub(r"\{\{.*?\}\}", "", text)


KINDS: tuple[Callable[[], Iterator[Text]], ...] = (
    documents,
    runbooks,
    help_texts,
    alert_texts,
    threshold_texts,
    dashboard_texts,
    hints,
    settings,
    command_help,
    comments,
)
"""All texts that people read."""


def main() -> int:
    """Print the offenses; return 1 if there is any."""
    found = [line for kind in KINDS for line in offences(kind())]
    for line in found:
        print(line)  # noqa: T201
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

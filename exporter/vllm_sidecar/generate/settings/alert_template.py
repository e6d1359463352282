"""Check of templates in labels and annotations; Prometheus refuses a whole file with one that it does not accept.

They are Go's text/template with Prometheus' functions; allowed is the part that alerts need: pipelines of
functions, fields and texts, with `if`, `with`, `range` and `else`. Variables and templates of one's own are refused.
"""

from __future__ import annotations

import re

FUNCTIONS = frozenset(
    (
        *("query", "first", "label", "value", "sortByLabel", "strvalue", "safeHtml", "args", "tmpl"),
        *("humanize", "humanize1024", "humanizeDuration", "humanizePercentage", "humanizeTimestamp"),
        *("title", "toUpper", "toLower", "match", "reReplaceAll", "graphLink", "tableLink", "pathPrefix"),
        *("externalURL", "parseDuration", "stripPort", "stripDomain"),
        *("and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "html", "urlquery", "js"),
        *("index", "slice", "len", "print", "printf", "println"),
    )
)
VARIABLES = ("$labels", "$value", "$externalLabels", "$externalURL")
BLOCKS = ("if", "with", "range")
FIELDS = (".Labels", ".Value", ".ExternalLabels", ".ExternalURL")

_ACTION = re.compile(r"\{\{(?:- )?(?P<body>(?:\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`|[^\"`{}])*?)(?: -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:[^\"\\\n]|\\[abfnrtv\\\"])*\"|`[^`]*`)"
    r"|(?P<number>-?\d+(?:\.\d+)?(?![\w.]))"
    r"|(?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)|(?P<field>(?:\.[A-Za-z_]\w*)+|\.)"
    r"|(?P<word>[A-Za-z_]\w*))(?=[\s()|]|\Z)|\s*(?P<mark>[()|])",
    re.ASCII,
)


class TemplateError(ValueError):
    """A text that is not a template of Prometheus; the message has the reason."""


def check(text: str) -> None:
    """Raise TemplateError unless Prometheus accepts the text as a template."""
    blocks: list[str] = []
    at = 0
    while (at := text.find("{{", at)) >= 0:
        found = _ACTION.match(text, at)
        if found is None:
            raise TemplateError(f"{text[at : at + 20]!r} is not closed by }}}}")
        _action(found["body"].strip(), blocks)
        at = found.end()
    if blocks:
        raise TemplateError(f"{blocks[-1]} has no end")


def literal(text: str) -> str:
    """Write a text so that the template outputs it unchanged."""
    return text.replace("{{", '{{ "{{" }}')


def _action(body: str, blocks: list[str]) -> None:
    """Check one action; `blocks` are those that are open, and change with it."""
    word, _, rest = body.partition(" ")
    inside = bool({"with", "range"} & set(blocks))
    if word in ("end", "else") and not blocks:
        raise TemplateError(f"{word} is not in a block")
    if body == "end":
        blocks.pop()
        return
    if body == "else" and blocks[-1] != "else":
        blocks[-1] = "else"
        return
    if word == "else":
        if blocks[-1] != "if" or not rest.startswith("if "):
            raise TemplateError(f"{body!r} is not in an if")
        rest = rest.removeprefix("if ")
    elif word in BLOCKS:
        blocks.append(word)
    else:
        rest = body
    _Pipeline(rest, inside=inside).check()


class _Pipeline:
    """One walk over the content of an action."""

    def __init__(self, text: str, *, inside: bool) -> None:
        self.inside = inside
        self.tokens: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise TemplateError(f"{text[at : at + 20]!r} cannot be read")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()

    def check(self) -> None:
        self._pipeline()
        if self.tokens:
            raise TemplateError("a ) has no opening (")

    def _pipeline(self) -> None:
        self._command(first=True)
        while self.tokens and self.tokens[0][1] == "|":
            self.tokens.pop(0)
            self._command(first=False)

    def _command(self, *, first: bool) -> None:
        """Walk over a function with its arguments, or over one value."""
        if not self.tokens:
            raise TemplateError("something is missing")
        kind, text = self.tokens[0]
        if text not in FUNCTIONS and not first:
            raise TemplateError(f"{text!r} after | is not a function")
        if kind != "word":
            self._operand()
            if self.tokens and self.tokens[0][1] not in ("|", ")"):
                raise TemplateError(f"{text!r} is not a function and takes no arguments")
            return
        self._operand()
        while self.tokens and self.tokens[0][1] not in ("|", ")"):
            self._operand()

    def _operand(self) -> None:
        kind, text = self.tokens.pop(0)
        if text == "(":
            self._pipeline()
            if not self.tokens or self.tokens.pop(0)[1] != ")":
                raise TemplateError("a ( is not closed")
        elif kind == "mark":
            raise TemplateError(f"{text!r} is found where a value is needed")
        elif kind == "word" and text not in FUNCTIONS and text not in ("true", "false"):
            raise TemplateError(f"{text!r} is not a function of Prometheus")
        elif kind == "variable" and text.split(".")[0] not in VARIABLES:
            raise TemplateError(f"{text!r} is not set; variables are {', '.join(VARIABLES)}")
        elif kind == "field" and not self.inside and not text.startswith(FIELDS):
            raise TemplateError(f"{text!r} does not exist; fields are {', '.join(FIELDS)}")

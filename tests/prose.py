"""The English that people read: rules for it, and where it stands.

`python -m tests.prose` prints what breaks a rule, and figures: how many sentences there are, the longest of them, and
how many may be passive. It reads README.md, the pages of the documentation, and every text in the package that is no
docstring: help, errors, log words, replies, the status page, the catalogue. What `shimproxy explain` says is read, too,
with the captions of its transcripts.
The rules are explained in shimproxy/docs/contributing.md, "Language".
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

import shimproxy
from shimproxy.help.explain.entries import entries
from shimproxy.help.explain.transcript import Transcript
from tests.pages import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = Path(shimproxy.__file__).parent
MOST_WORDS: Final = 20
"""Of a statement, which ends at a full stop, a colon or a semicolon."""
MOST_WORDS_OF_A_SENTENCE: Final = 25
"""Of a sentence, which ends at a full stop."""
BLANK: Final = "X"
"""What stands for code in a page, and for a value in a text of the package: one word."""


@attrs.frozen
class Text:
    """A text that people read."""

    where: str
    """File and line."""
    words: str
    """Without markup, on one line; what it quotes is one word each."""
    clauses: bool = False
    """Whether a semicolon ends a sentence, as in help, messages and tables."""


@attrs.frozen
class Fault:
    """A rule that a text breaks."""

    text: Text
    rule: str

    def __str__(self) -> str:
        return f"{self.text.where}: {self.rule}: {self.text.words[:300]}"


# -- the rules

_PEER: Final = (
    r"(receiver|sender|peer|client|server|worker|process|connection|session|listener|proxy|shimproxy|it|that)"
)
RULES: Final = {
    pattern: re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "after" in time; what stands behind a proxy or a firewall stands there.
        r"\bbehind\b(?! (an? |the |another |your |its )?(\w+ )?(X|NAT|proxy|balancer|gateway|firewall)\b)",
        rf"\b{_PEER}('s)? (goes|went|has gone|is gone|had gone)\b(?! (to|through|over|into|by)\b)",
        r"\b(goes|go|went|gone|going) (on|round|away)\b",
        r"\b(goes|go|went|gone) by\b",
        # The actor is the sender, the receiver, shimproxy or the operator.
        r"\b(nobody|somebody|whoever|whomever)\b",
        r"\bof (no |any |some )?use\b",
        r"\b(the|a) shim\b",
        # Words that come from another language.
        r"\b(anew|lest|amiss|meanwhile|thereby|hereby|whereby|wherein|therein)\b",
        r"\b(leave|leaves|left|leaving) (it|that|this|them|the others?|one|one of them|\S+) away\b",
        r"(?<!there )(?<!this )\b(is|are|was|were) no (?!longer\b|more\b|less\b|such\b)\w+",
        r"\bcan('t| not|not)? be (said|told)\b",
        r"\b(is|are) to be\b",
        r"\ball that (is|was|has)\b",
        r"\bare told\b|\bis told\b|\bwas told\b|\bunless told\b",
        r"\bto its end\b|\bto their end\b|\bto an end\b",
        r"\b(may|might) well\b|\bin order to\b|\bdue to the fact\b|\butili[sz]e\b",
    )
}
_PASSIVE: Final = re.compile(
    r"\b(is|are|was|were|be|been|being) (\w+ly )?(\w+ed|known|given|sent|taken|held|kept|said|told|made|lost|shown|cut|"
    r"read|written|found|begun|left|meant|met|put|seen|set|shut|forwarded)\b(?! by\b)"
)
_STATEMENT_END: Final = re.compile(r"(?<=[.?!:;])[\"')\]]*\s+")
_CLAUSE_END: Final = re.compile(r"(?<=[.?!;])[\"')\]]*\s+")
_SENTENCE_END: Final = re.compile(r"(?<=[.?!])[\"')\]]*\s+")
_WORD: Final = re.compile(r"[^\W_]")


def _words_in(text: str) -> int:
    return sum(1 for word in text.split() if _WORD.search(word))


def sentences_of(text: Text) -> list[str]:
    """Its sentences."""
    return (_CLAUSE_END if text.clauses else _SENTENCE_END).split(text.words)


def faults_of(text: Text) -> Iterator[Fault]:
    """Each rule that it breaks."""
    for parts, most in ((_STATEMENT_END.split(text.words), MOST_WORDS), (sentences_of(text), MOST_WORDS_OF_A_SENTENCE)):
        longest = max(map(_words_in, parts))
        if longest > most:
            yield Fault(text, f"{longest} words, where {most} are the most")
    for rule, pattern in RULES.items():
        if found := pattern.search(text.words):
            yield Fault(text, f"{found[0]!r} ({rule})")


# -- texts in the package


_CSS_OR_SCRIPT: Final = re.compile(r"\{[^}]*[:;]|=>|\\d|\[\w|=\"")
_TAG: Final = re.compile(r"<(/?[a-z]\w*[^<>]*|!DOCTYPE[^>]*)>")


def texts_of_code(source: str, file: str) -> Iterator[Text]:
    """Every text in a module that is neither docstring nor one word, with X where it has a value."""
    tree = ast.parse(source)
    for line, text in _literals(tree):
        text = _TAG.sub(" ", text)
        if re.match(r"\d{3}[ -]", text) or _CSS_OR_SCRIPT.search(text):
            continue  # a reply that another program makes, a style, a script, a pattern
        text = " ".join(text.split())
        if re.search(r"[A-Za-z] [A-Za-z]", text):
            yield Text(f"{file}:{line}", text, clauses=True)


def _literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.Raise(exc=ast.Call(func=ast.Name(id="AssertionError"))):  # a bug: for developers
            return
        case ast.Constant(value=str(text)):
            yield node.lineno, text
            return
        case ast.JoinedStr(values=values):
            yield node.lineno, "".join(str(each.value) if isinstance(each, ast.Constant) else BLANK for each in values)
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from _literals(child)


# -- texts in Markdown


def texts_of_page(markdown: str, file: str) -> Iterator[Text]:
    """Every heading, paragraph, item and cell of a page; code that stands alone is none, code in a line is a word."""
    lines: list[str] = []
    began = 0

    def end() -> Iterator[Text]:
        nonlocal lines
        if text := _plain(" ".join(lines)):
            yield Text(f"{file}:{began}", text)
        lines = []

    fenced = indented = False
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            yield from end()
            fenced = not fenced
            continue
        if not line.strip() or line.lstrip().startswith("<!--"):
            yield from end()
            indented = False
            continue
        # Four blanks after an empty line begin code, but a line of an item's second paragraph is not told from that.
        if fenced or (not lines and line.startswith("    ")) or indented:
            indented = indented or not fenced
            continue
        if line.startswith("|"):
            yield from end()
            for cell in re.split(r"(?<!\\)\|", line)[1:-1]:
                if text := _plain(cell):
                    yield Text(f"{file}:{number}", text, clauses=True)
            continue
        if re.match(r"\s*([-*+]|\d+\.|#+|>)\s", line):
            yield from end()
            line = re.sub(r"^\s*([-*+]|\d+\.|#+|>)\s+", "", line)
        if not lines:
            began = number
        lines.append(line.strip())
    yield from end()


def _plain(markdown: str) -> str:
    text = re.sub(r"(`+).+?\1", BLANK, markdown)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = _TAG.sub(" ", text)
    text = " ".join(text.replace("**", "").split())
    return text if re.search("[A-Za-z] [A-Za-z]", text) else ""


# -- what is explained


def texts_of_entries() -> Iterator[Text]:
    """What `shimproxy explain` says of each name."""
    for entry in entries():
        for part in ("summary", "means", "do", "tell"):
            if text := getattr(entry, part):
                yield Text(f"explain {entry.name}: {part}", text, clauses=True)
        for program in entry.programs:
            yield Text(f"explain {entry.name}: {program.program}", f"{program.program}: {program.does}", clauses=True)


def texts_of_transcripts() -> Iterator[Text]:
    """The caption of each transcript."""
    for transcript in Transcript.all():
        yield Text(f"{transcript.name}.txt:1", transcript.caption)


# -- all of them


def texts() -> Iterator[Text]:
    """All that people read."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from texts_of_code(path.read_text(), str(path.relative_to(PACKAGE.parent)))
    for page in pages():
        yield from texts_of_page(page.read_text(), str(page.relative_to(PACKAGE.parent)))
    yield from texts_of_entries()
    yield from texts_of_transcripts()


def main() -> int:
    """Print what breaks a rule, and figures; the exit status is 1 if there is any."""
    found = list(texts())
    faults = [fault for text in found for fault in faults_of(text)]
    for fault in faults:
        print(fault)
    sentences = [sentence for text in found for sentence in sentences_of(text)]
    longest = max(sentences, key=_words_in)
    passive = sum(len(_PASSIVE.findall(text.words)) for text in found)
    print(f"{len(found)} texts, {len(sentences)} sentences, {len(faults)} faults; {passive} may be passive")
    print(f"the longest sentence, {_words_in(longest)} words: {longest}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

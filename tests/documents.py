"""What the documentation says, for tests: the fenced blocks, sections, tables and code of a Markdown page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, groupby
from pathlib import Path

from tests.conftest import ROOT

DOCS = ROOT / "docs"
# Blocks of other languages are not run: settings of other programs, answers, formulas.
RUNNABLE = frozenset(("sh", "console", "python"))
_FENCE = re.compile(r"^(\s*)(`{3,})\s*(\{.*\}|\S*)\s*$")
_CLASS = re.compile(r"\.([\w-]+)")
_REASON = re.compile(r'data-reason="([^"]*)"')
_CODE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"--?[A-Za-z][\w-]*")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. `reason` says why it is not run; None where it is."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return self.language in RUNNABLE and self.reason is None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Section:
    """A heading of any level, and what stands below it up to the next one."""

    title: str
    text: str

    def rows(self) -> Iterator[list[str]]:
        """The cells of each row of its tables, without their heads."""
        lines = [line.strip() for line in without_blocks(self.text).splitlines()]
        for before, line in zip(["", *lines], lines, strict=False):
            ruler = set(line) <= set("|-: ")
            if line.startswith("|") and not ruler and before.startswith("|"):
                yield [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


@dataclass(frozen=True)
class Page:
    """One page by its name, as `commands.md`."""

    name: str
    text: str

    @staticmethod
    def read(file: Path) -> Page:
        """A page from its file."""
        return Page(file.name, file.read_text("utf-8"))

    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        blocks: list[Block] = []
        lines = self.text.splitlines()
        at = 0
        while at < len(lines):
            start = _FENCE.match(lines[at])
            at += 1
            if start is None:
                continue
            first, (indent, fence, info) = at, start.groups()
            while at < len(lines) and lines[at].strip() != fence:
                at += 1
            assert at < len(lines), f"{self.name}:{first}: this block does not end"
            classes = _CLASS.findall(info.partition("data-")[0]) if info.startswith("{") else [info]
            reason = _REASON.search(info)
            assert ("no-run" in classes) == (reason is not None), f"{self.name}:{first}: .no-run needs a data-reason"
            text = "\n".join(line.removeprefix(indent) for line in lines[first:at])
            blocks.append(
                Block(
                    page=self.name,
                    line=first,
                    language=classes[0] if classes else "",
                    text=text,
                    reason=reason.group(1) if reason is not None else None,
                )
            )
            at += 1
        return blocks

    def sections(self) -> list[Section]:
        """Its headings in order, each with its text."""
        plain = without_blocks(self.text)
        found = [*re.finditer(r"^#{1,6} +(.+?)\s*$", plain, re.MULTILINE)]
        ends = [*(match.start() for match in found[1:]), len(plain)]
        return [Section(match.group(1), plain[match.end() : end]) for match, end in zip(found, ends, strict=True)]

    def section(self, title: str) -> Section:
        """The section of this title. `AssertionError` where there is none."""
        for section in self.sections():
            if section.title.replace("`", "") == title:
                return section
        raise AssertionError(f"{self.name} has no section {title!r}")


def pages() -> list[Page]:
    """Every page of the site, by name."""
    return [Page.read(file) for file in sorted(DOCS.glob("*.md"))]


def page(name: str) -> Page:
    """One page of the site."""
    return Page.read(DOCS / name)


def without_blocks(text: str) -> str:
    """A page with its fenced blocks as empty lines, so that what stands in them is no heading and no table."""
    lines, fence = [], ""
    for line in text.splitlines():
        match = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
            lines.append("")
        elif match is not None:
            fence = match.group(2)
            lines.append("")
        else:
            lines.append(line)
    return "\n".join(lines)


def code(text: str) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(text)


def options(cell: str) -> set[str]:
    """The options that the code of a table's cell names, as `--model NAME` or `-k N`."""
    return {span.split()[0] for span in code(cell) if _OPTION.fullmatch(span.split()[0])}


def command_lines(text: str) -> list[list[str]]:
    """The words after `mmsearch` of each call of it in a block of a shell or a service."""
    calls = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(
            line.strip().removeprefix("$ ").removeprefix("ExecStart="), posix=True, punctuation_chars="|;&<>()"
        )
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue
        for starts, part in groupby(words, lambda word: set(word) <= set("|;&<>()")):
            call = [*dropwhile(lambda word: "=" in word, part)]
            if call[:2] == ["sudo", "-u"]:
                call = [*dropwhile(lambda word: "=" in word, call[3:])]
            if not starts and call and call[0].rpartition("/")[2] == "mmsearch":
                calls.append(call[1:])
    return calls

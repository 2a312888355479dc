"""The reference pages have every command, option, variable, name, route, field and metric that there is, and no other."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.documents import Page, code, command_lines, options, page, pages

_SOURCES = ("media", "retrieval", "indexer", "client", "cli", "server", "benchmarks", "training")
# Of other programs, or of scripts of the source tree that are no commands.
_FOREIGN = frozenset(("--epochs", "--batch", "--rate", "--help"))


@cache
def commands() -> dict[str, Any]:
    """Every command of the program, by its words after `mmsearch`."""
    from cli.layout import complete_command
    from cli.main import application

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield name, command
        for word, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {word}".strip())

    return dict(walk(complete_command(application()), ""))


def options_of(command: Any) -> dict[str, Any]:
    """The options of a command by each of their spellings."""
    return {
        name: option
        for option in command.params
        if option.param_type_name == "option"
        for name in (*option.opts, *option.secondary_opts)
        if name != "--help"
    }


def test_every_command_is_documented_and_no_other() -> None:
    titles = [section.title for section in page("commands.md").sections() if section.title != "Commands"]
    assert titles == list(dict.fromkeys(titles))
    assert set(titles) == {f"mmsearch {name}".strip() for name in commands()}


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_of_a_command_is_documented_and_no_other(name: str) -> None:
    section = page("commands.md").section(f"mmsearch {name}".strip())
    there = options_of(commands()[name])
    rows = [row for row in section.rows() if options(row[0])]
    documented = [option for row in rows for option in sorted(options(row[0]))]
    assert sorted(documented) == sorted(there)
    for row in rows:
        assert row[-1], f"{row[0]} says nothing"


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_documented_default_of_an_option_is_its_default(name: str) -> None:
    there = options_of(commands()[name])
    for row in page("commands.md").section(f"mmsearch {name}".strip()).rows():
        for option in options(row[0]):
            default = there[option].default
            if default is None or default is False or default == "" or callable(default):
                assert len(row) < 3 or not re.fullmatch(r"`[\d.]+`", row[1]), f"{option} has no default {row[1]}"
            else:
                assert len(row) == 3 and row[1] == f"`{default}`", f"the default of {option} is {default}"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_argument_of_a_command_is_documented(name: str) -> None:
    section = page("commands.md").section(f"mmsearch {name}".strip())
    arguments = [one for one in commands()[name].params if one.param_type_name == "argument"]
    documented = [row[0] for row in section.rows() if re.fullmatch(r"`[A-Z]+(?:\.\.\.)?`", row[0])]
    assert documented == [f"`{one.metavar}{'...' if one.nargs != 1 else ''}`" for one in arguments], (
        "as its help has it"
    )


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_value_of_an_option_is_called_what_its_help_calls_it(name: str) -> None:
    there = options_of(commands()[name])
    for row in page("commands.md").section(f"mmsearch {name}".strip()).rows():
        for span in re.findall(r"`(-[^`]+)`", row[0]):
            option, _, value = span.partition(" ")
            # Where help lists what can be chosen, a table has a word for it.
            listed = "|" in (there[option].metavar or "")
            wanted = "" if there[option].is_flag else there[option].metavar
            assert value == wanted or (listed and value.isupper()), f"{option} takes {wanted}"


def test_calls_in_any_block_name_commands_and_options_that_exist() -> None:
    readme = Page.read(ROOT / "README.md")
    indented = "\n".join(line for line in readme.text.splitlines() if line.startswith("    "))
    texts = [(str(block), block.text) for every in pages() for block in every.blocks()] + [("README.md", indented)]
    for place, text in texts:
        for words in command_lines(text):
            name = ""
            while words and not words[0].startswith("-") and f"{name} {words[0]}".strip() in commands():
                name = f"{name} {words.pop(0)}".strip()
            there = options_of(commands()[name])
            for word in words:
                option = word.partition("=")[0]
                if re.fullmatch(r"--[a-z][\w-]*|-[a-z]", option) and option != "--help":
                    assert option in there, f"{place}: mmsearch {name} has no option {option}"


def test_options_that_a_text_names_exist() -> None:
    every = {option for command in commands().values() for option in options_of(command)} | _FOREIGN
    for text_page in pages():
        for span in code(text_page.text):
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
                foreign = re.match(r"(?:python -m|pip|tar|podman|--device nvidia)", span) is not None
                assert foreign or option in every, f"{text_page.name}: `{span}`"


def variables() -> set[str]:
    """The variables of our own that the source reads."""
    files = [file for folder in _SOURCES for file in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "mmsearch.py", ROOT / "Makefile"]
    return {name for file in files for name in re.findall(r"MMSEARCH_[A-Z_]+", file.read_text("utf-8"))}


def test_every_environment_variable_is_documented_and_no_other() -> None:
    documented = {
        code(row[0])[0] for row in page("environment.md").section("Variables of mmsearch").rows() if code(row[0])
    }
    assert documented == variables()
    for text_page in pages():
        assert set(re.findall(r"MMSEARCH_[A-Z_]+", text_page.text)) <= documented, text_page.name


def first_column(title: str) -> set[str]:
    """The code in the first column of the tables of a section of the page on Python."""
    return {span for row in page("python.md").section(title).rows() for span in code(row[0])}


def test_every_public_name_is_documented_and_no_other() -> None:
    import mmsearch

    titles = {section.title.strip("`") for section in page("python.md").sections() if section.title.startswith("`")}
    assert titles == {f"mmsearch.{name}" for name in mmsearch.__all__}
    for name in re.findall(r"\bmmsearch\.(\w+)", page("python.md").text):
        assert hasattr(mmsearch, name), name


def test_every_field_and_method_of_the_public_types_is_documented_and_no_other() -> None:
    import mmsearch

    for name in mmsearch.__all__:
        public = getattr(mmsearch, name)
        if dataclasses.is_dataclass(public):
            fields = {field.name for field in dataclasses.fields(public)}
            assert first_column(f"mmsearch.{name}") == fields, name
    for kind in (mmsearch.Engine, mmsearch.Client, mmsearch.AsyncClient):
        methods = {name for name in vars(kind) if not name.startswith("_")}
        assert first_column(f"mmsearch.{kind.__name__}") == methods


def test_every_error_is_documented() -> None:
    import retrieval.errors

    spans = set(code(page("python.md").section("mmsearch.MmsearchError").text))
    assert set(retrieval.errors.__all__) - {"MmsearchError"} <= spans


@pytest.fixture(scope="module")
def document(web_address: str) -> dict[str, Any]:
    """The OpenAPI document of a running server."""
    answer: dict[str, Any] = httpx.get(f"{web_address}/openapi.json", timeout=60).json()
    return answer


@pytest.fixture(scope="module")
def web_address(address: str) -> str:
    """The address of a server over the sample photos."""
    return address


def test_every_route_is_documented_and_no_other(document: dict[str, Any]) -> None:
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    titles = {section.title for section in page("http.md").sections()}
    assert {title for title in titles if re.match(r"[A-Z]+ /", title)} == routes


def test_every_field_of_the_api_is_documented_and_no_other(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    fields = {name for schema in schemas.values() for name in schema.get("properties", {})}
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    parameters = {parameter["name"] for operation in operations for parameter in operation.get("parameters", [])}
    statuses = {status for operation in operations for status in operation["responses"]}
    spans = {span for section in page("http.md").sections() for span in code(section.text)}
    assert fields | parameters - {"identity", "wanted"} <= spans
    rows = [row for section in page("http.md").sections() for row in section.rows()]
    named = {span for row in rows for span in code(row[0])}
    assert named <= fields | parameters, named - fields - parameters
    assert {row[0] for row in page("http.md").section("Errors").rows()} >= {s for s in statuses if int(s) >= 400}


def test_every_field_that_a_search_takes_stands_where_the_search_is_told(document: dict[str, Any]) -> None:
    asked = set(document["components"]["schemas"]["SearchForm"]["properties"])
    answered = set(document["components"]["schemas"]["SearchResponse"]["properties"])
    rows = page("http.md").section("POST /api/search").rows()
    assert {span for row in rows for span in code(row[0])} == asked | answered


def test_every_key_of_a_hit_in_json_is_documented() -> None:
    from retrieval.types import Hit, Item

    hit = Hit(
        rank=1,
        score=0.5,
        first_stage_score=0.5,
        rerank_score=None,
        item=Item(id="a", path="a", source="a", kind="image"),
    )
    spans = set(code(page("commands.md").section("mmsearch search").text))
    assert set(hit.to_json()) <= spans


def test_every_metric_is_documented_and_no_other() -> None:
    from server.metrics import Metrics

    names = set(re.findall(r"^# HELP (mmsearch_\w+)", Metrics().text().decode(), re.MULTILINE))
    rows = page("serving.md").section("Watching over it").rows()
    documented = {span for row in rows for span in code(row[0])}
    assert documented == names


def test_figures_of_the_page_on_serving_are_measured() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text("utf-8").replace("**", "")
    rows = [row for row in page("serving.md").section("What it takes").rows() if len(row) == 2]
    assert rows
    for what, figure in rows:
        number = figure.partition(" times")[0]
        assert number in measured or all(part in measured for part in re.findall(r"[\d.,]+", figure)), what


def test_the_filters_of_the_query_line_are_documented_and_no_other() -> None:
    from retrieval.query import FILTERS

    rows = page("query-line.md").section("Filters").rows()
    assert {code(row[0])[0].rstrip(":") for row in rows if code(row[0])} == set(FILTERS)


def test_no_page_names_a_file_of_this_machine() -> None:
    for text_page in pages():
        assert str(Path.home()) + os.sep not in text_page.text or str(Path.home()) == "/", text_page.name

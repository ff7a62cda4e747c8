"""What the pages say is there: links lead somewhere, commands compose, and messages are those of the program."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from depth_anything_train.composition import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CONFIG = re.compile(r"\bconfigs/[\w/.]*\w")
KEY = re.compile(r"`([\w.@/]+=[^`\n]+)`")
COMMAND = re.compile(r"(?:^(?:\w+=\S+ )*(?:\.venv/bin/)?|`)depth-anything ([a-z][^`\n]*)", re.MULTILINE)


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def literals(path):
    """Every text of a module, with `\0` where a value is put in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def commands(text):
    """Words of every command of a page that is written out, `[a,...]` and `{a: b, ...}` without their dots."""
    for line in COMMAND.findall(text.replace("\\\n", " ")):
        words = shlex.split(re.sub(r",? ?\.\.\.(?=[]}])", "", line), comments=True)
        its_own = any(f"{word.replace('=', '/')}.yaml" in text for word in words if word.startswith("experiment="))
        if "..." not in words and not its_own:
            yield words


def modules():
    for package in ("depth_anything_train", "data_engine"):
        yield from sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_compose(page):
    for name, *keys in commands(page.read_text()):
        compose(name, [key for key in keys if not key.startswith("--")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands__braces_stars_and_spaces_are_quoted_from_the_shell(page):
    """Bash would make two words of `{a: b, c: d}` and of `{a:b,c:d}`, and file names of a star."""
    text = page.read_text().replace("\\\n", " ")
    for line in [*COMMAND.findall(text), *KEY.findall(text)]:
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line.partition(" #")[0])
        assert not re.search(r"[{}*]|\[[^]]* ", bare), line


def test_commands__are_found():
    found = list(commands((ROOT / "README.md").read_text()))
    assert ["label", "teacher=runs/teacher", "shards=shards/sa1b", "out=labels/sa1b"] in found and len(found) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme():
    linked = LINK.findall((ROOT / "README.md").read_text())
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= {link.partition("#")[0] for link in linked}


def test_table_of_experiments__names_all_that_there_are():
    named, last = set(), ""
    for row in re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            last = f"{last.rpartition('_')[0]}{name}" if name.startswith("_") else name
            named.add(last)
    there = {path.stem for path in (ROOT / "configs" / "train" / "experiment").glob("[!_]*.yaml")}
    families = tuple(name.rstrip("*") for name in named if name.endswith("*"))
    assert {name for name in there if not name.startswith(families)} == {name for name in named if "*" not in name}


def test_quoted_messages_are_those_of_the_program():
    quoted = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    said = [text for path in modules() for text in literals(path)]
    assert len(quoted) > 10
    for message in quoted:
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)
        assert any(pattern.search(text) for text in said), message


def test_configs_that_docstrings_name_are_there():
    named = {(path, name) for path in modules() for text in literals(path) for name in CONFIG.findall(text)}
    assert len(named) > 5
    for path, name in named:
        assert list(ROOT.glob(name.replace("NAME", "*"))), f"{path} names {name}"

"""The docs keep up with the code: every name, setting and check is in them, and their links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import get_commands

import notifications
from notifications.consumers import CLOSE_CODES, CloseCode
from notifications.envelope import CONTROL_TYPES, INBOX_TYPES
from notifications.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = {
    path.name: path.read_text() for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
}
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets where Markdown is usually shown."""
    text = re.sub(r"[`*]", "", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(name: str) -> set[str]:
    text = re.sub(r"^```.*?^```", "", DOCS[name], flags=re.MULTILINE | re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def links() -> Iterator[tuple[str, str]]:
    for name, text in DOCS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
            yield name, target


def rows(name: str, columns: int) -> Iterator[list[str]]:
    """The rows of all tables of a page with that many columns."""
    for line in DOCS[name].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if line.startswith("|") and len(cells) == columns:
            yield cells


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(("name", "target"), sorted(set(links())))
def test_link_leads_somewhere(name: str, target: str) -> None:
    if re.match(r"https?:", target):
        return
    path, _, fragment = target.partition("#")
    folder = ROOT if name in ("README.md", "CHANGELOG.md") else ROOT / "docs"
    file = (folder / path).resolve() if path else folder / name
    assert file.is_file(), f"{name} links to {target}"
    if fragment:
        assert fragment in anchors(file.name), f"{name} links to {target}"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", notifications.__all__)
def test_public_name_is_documented(name: str) -> None:
    assert re.search(rf"`{name}(\(\))?`|import .*\b{name}\b", DOCS["embed.md"])


@pytest.mark.parametrize("command", sorted(name for name, app in get_commands().items() if app == "notifications"))
def test_command_is_documented(command: str) -> None:
    assert f"`{command}" in DOCS["operate.md"]


@pytest.mark.parametrize("block", [block for text in DOCS.values() for block in PYTHON_BLOCK.findall(text)])
def test_python_example_is_python(block: str) -> None:
    tree = ast.parse(block)
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imported:
        if node.module and node.module.partition(".")[0] == "notifications":
            module: Any = __import__(node.module, fromlist=["*"])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


# ---------------------------------------------------------------- settings


def default_in_words(value: object) -> str:
    if isinstance(value, timedelta):
        return f"timedelta(days={value.days})"
    if isinstance(value, tuple):
        return f"[{', '.join(default_in_words(part) for part in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


SETTING_ROWS = {cells[0].strip("`"): cells for cells in rows("configure.md", 4) if cells[0].startswith("`")}


def test_settings_in_the_table_are_those_there_are() -> None:
    assert SETTING_ROWS.keys() == Settings.keys().keys()


@pytest.mark.parametrize("name", Settings.keys())
def test_setting_has_its_default_in_the_table(name: str) -> None:
    assert SETTING_ROWS[name][2] == f"`{default_in_words(Settings.keys()[name].default)}`"


@pytest.mark.parametrize("name", Settings.keys())
def test_setting_has_its_type_in_the_table(name: str) -> None:
    words = {
        bool: "bool",
        int: "int",
        float: "number",
        str: "text",
        dict: "dict",
        list: "list",
        tuple: "list",
        timedelta: "timedelta",
    }
    types = [kind for kind in Settings.keys()[name].types if kind is not type(None)]
    expected = "number" if float in types else words[types[0]]
    if type(None) in Settings.keys()[name].types:
        expected += " or None"
    assert SETTING_ROWS[name][1].split(",")[0] == expected


# ---------------------------------------------------------------- checks


def test_checks_explained_are_those_there_are() -> None:
    source = "".join(path.read_text() for path in (ROOT / "notifications" / "checks").glob("*.py"))
    used = set(re.findall(r'id="(notifications\.[EW]\d{3})"', source))
    explained = re.findall(r"^## (notifications\.[EW]\d{3})", DOCS["checks.md"], re.MULTILINE)
    assert sorted(explained) == sorted(used)
    assert len(set(explained)) == len(explained)


# ---------------------------------------------------------------- protocol


def test_protocol_names_every_close_code() -> None:
    codes = {value for name, value in vars(CloseCode).items() if name.isupper()}
    assert codes <= {int(cells[0]) for cells in rows("protocol.md", 3) if cells[0].isdigit()}


@pytest.mark.parametrize("type", sorted(CONTROL_TYPES | INBOX_TYPES))
def test_protocol_explains_every_type(type: str) -> None:
    assert anchor(f"`{type}`") in anchors("protocol.md")


@pytest.mark.parametrize("reason", sorted({*CLOSE_CODES, "shutdown", "lifetime", "access", "error"}))
def test_protocol_explains_every_reason_to_end(reason: str) -> None:
    assert reason in {cells[0].strip("`") for cells in rows("protocol.md", 4)}


@pytest.mark.django_db
def test_protocol_lists_the_fields_of_a_notification() -> None:
    from notifications import notify
    from notifications.publishing import notification_payload

    user = User.objects.create_user("alice")
    payload = notification_payload(notify(user, "hi", actor=user, target=user))
    section = DOCS["protocol.md"].partition("### `notification`")[2].partition("### ")[0]
    documented = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    assert documented == {*payload, "seq", "topic", "expires_at"}


def test_docs_do_not_name_this_machine() -> None:
    for name, text in DOCS.items():
        assert not re.search(r"/work/|/tmp/|" + re.escape(str(ROOT)), text), name


def test_architecture_names_every_module() -> None:
    table = DOCS["architecture.md"].partition("## Modules")[2].partition("## ")[0]
    modules = {path.name.removesuffix(".py") for path in (ROOT / "notifications").iterdir() if path.name[0].isalpha()}
    # Which are folders of other things than code.
    modules -= {"py.typed", "locale", "migrations", "static", "templates"}
    assert set(re.findall(r"`([a-z_]+)`", table)) >= modules

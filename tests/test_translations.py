"""Every sentence of the app is in German and Arabic, and what is compiled is what was written.

After a change: add the sentence to both ``django.po`` files and run ``django-admin compilemessages`` in
``notifications/`` (it needs GNU gettext; neither installing the app nor these tests does).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from gettext import GNUTranslations
from pathlib import Path
from typing import NamedTuple

import pytest
from django.utils import translation
from django.utils.translation import templatize, to_locale

PACKAGE = Path(__file__).resolve().parent.parent / "notifications"
LANGUAGES = ["de", "ar"]
#: Forms of the plural.
FORMS = {"de": 2, "ar": 6}
#: Names of what marks a sentence, and how many of its first arguments are sentences.
MARKS = {"_": 1, "gettext": 1, "gettext_lazy": 1, "gettext_noop": 1, "ngettext": 2, "ngettext_lazy": 2}
LITERAL = r"""u?('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
#: What :func:`templatize` leaves of a template.
MARKED = re.compile(rf"\b(n?gettext|_)\(\s*{LITERAL}(?:\s*,\s*{LITERAL})?")
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|\{\w*\}")

Sentence = tuple[str, ...]


class Entry(NamedTuple):
    """An entry of a catalogue: the sentence (with its plural, if it has one) and its translations."""

    sentence: Sentence
    translations: tuple[str, ...]
    flags: str


def in_python(source: str) -> Iterator[Sentence]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        texts = [arg.value for arg in node.args[: MARKS.get(node.func.id, 0)] if isinstance(arg, ast.Constant)]
        if texts:
            yield tuple(map(str, texts))


def in_template(source: str) -> Iterator[Sentence]:
    for function, *literals in MARKED.findall(templatize(source)):
        yield tuple(ast.literal_eval(literal) for literal in literals[: MARKS[function]])


def sentences() -> dict[Sentence, str]:
    """Every sentence of the app, and a file that it is in."""
    found: dict[Sentence, str] = {}
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix == ".py" and "migrations" not in path.parts:
            marked = in_python(path.read_text())
        elif path.suffix in (".html", ".txt") and "templates" in path.parts:
            marked = in_template(path.read_text())
        else:
            continue
        found.update(dict.fromkeys(marked, path.relative_to(PACKAGE).as_posix()))
    return found


def catalogue(language: str, suffix: str) -> Path:
    return PACKAGE / "locale" / to_locale(language) / "LC_MESSAGES" / f"django.{suffix}"


def entries(language: str) -> list[Entry]:
    """Return what the ``.po`` file of a language says, its header included."""
    found = []
    for block in catalogue(language, "po").read_text().split("\n\n"):
        fields: dict[str, str] = {}
        field = flags = ""
        for line in block.strip().splitlines():
            if line.startswith("#"):
                flags += line[2:] if line.startswith("#,") else ""
                assert not line.startswith("#~"), f"{language}: an entry that nothing uses: {line}"
                continue
            keyword, _, rest = line.partition(" ")
            if not line.startswith('"'):
                field, line = keyword, rest
            fields[field] = fields.get(field, "") + ast.literal_eval(line)
        if fields:
            sentence = tuple(fields[name] for name in ("msgid", "msgid_plural") if name in fields)
            texts = tuple(text for name, text in fields.items() if name.startswith("msgstr"))
            found.append(Entry(sentence, texts, flags))
    return found


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_extraction_sees_what_there_is() -> None:
    assert list(in_python('_("a" "b"); ngettext("{n} x", "{n} xs", n); other("c")')) == [("ab",), ("{n} x", "{n} xs")]
    template = (
        '{% load i18n %}{% translate "it\'s" %}{% blocktranslate count n=n %}{{ n }} x{% plural %}{{ n }} xs'
        "{% endblocktranslate %}<i title=\"{{ _('c') }}\">"
    )
    assert list(in_template(template)) == [("it's",), ("%(n)s x", "%(n)s xs"), ("c",)]
    assert len(sentences()) > 100


def test_every_sentence_is_translated(language: str) -> None:
    known = {entry.sentence: entry for entry in entries(language)}
    missing = {sentence: where for sentence, where in sentences().items() if sentence not in known}
    assert not missing
    empty = [sentence for sentence, entry in known.items() if not all(entry.translations)]
    assert not empty


def test_no_translation_is_a_guess(language: str) -> None:
    assert not [entry.sentence for entry in entries(language) if "fuzzy" in entry.flags]


def test_no_translation_is_of_what_is_not_there(language: str) -> None:
    assert {entry.sentence for entry in entries(language)} - sentences().keys() - {("",)} == set()


def test_no_sentence_is_translated_twice(language: str) -> None:
    known = [entry.sentence[0] for entry in entries(language)]
    assert sorted(known) == sorted(set(known))


def test_every_form_of_a_plural_is_there(language: str) -> None:
    for entry in entries(language):
        assert len(entry.translations) == (FORMS[language] if len(entry.sentence) == 2 else 1), entry


def test_placeholders_are_those_of_the_sentence(language: str) -> None:
    for entry in entries(language):
        wanted = set(PLACEHOLDER.findall(entry.sentence[-1]))
        for text in entry.translations:
            found = set(PLACEHOLDER.findall(text))
            # Arabic has forms for one and for two, which need no number.
            assert found <= wanted if len(entry.sentence) == 2 else found == wanted, entry


def test_compiled_catalogue_is_current(language: str) -> None:
    with catalogue(language, "mo").open("rb") as file:
        compiled = GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    written: dict[str | tuple[str, int], str] = {}
    for entry in entries(language):
        if len(entry.sentence) == 1:
            written[entry.sentence[0]] = entry.translations[0]
        else:
            written |= {(entry.sentence[0], form): text for form, text in enumerate(entry.translations)}
    assert compiled == written, "run `django-admin compilemessages` in notifications/"


def test_languages_are_those_that_are_there() -> None:
    assert sorted(path.name for path in (PACKAGE / "locale").iterdir()) == sorted(map(to_locale, LANGUAGES))


@pytest.mark.parametrize(
    ("language", "text"), [("de", "Benachrichtigungen"), ("ar", "الإشعارات"), ("fr", "Notifications")]
)
def test_django_finds_them(language: str, text: str) -> None:
    with translation.override(language):
        assert translation.gettext("Notifications") == text

"""Dependencies point one way (docs/architecture.md): read from the source, so that a lazy import counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "notifications"
#: From the bottom to the top; a module imports only from its own layer and from those before it.
LAYERS = {
    "pure": {"settings", "kinds", "cursor", "sse", "envelope", "signals", "failpoints", "batch", "origin", "garbage"},
    "log": {
        *(
            "models",
            "access",
            "pubsub",
            "doorbell",
            "statements",
            "postgresql",
            "log",
            "publishing",
            "binding",
            "broadcasts",
            "receivers",
            "inbox",
            "reader",
        ),
        *("preferences", "sessions", "tables", "threads"),
    },
    "hub": {"stepping", "subscription", "rhythm", "turns", "rota", "link", "follower", "replay", "hub"},
    "stream": {"direct", "mailbox", "stream", "shutdown", "handover"},
    "view": {"views", "consumers", "polling", "inbox_views", "preference_views", "mixins", "forms", "admission"},
    "site": {"urls", "routing", "asgi", "admin", "apps", "checks", "templatetags", "management"},
}
ORDER = list(LAYERS)
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}
# It is given what reads the log. The doorbell it shares with those who ring it.
HUB_IMPORTS = LAYERS["pure"] | LAYERS["hub"] | {"doorbell", "pubsub"}
WITHOUT_DATABASE = LAYERS["pure"] | LAYERS["hub"] | {"doorbell", "pubsub"}


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "migrations" not in path.parts]


def module_of(path: Path) -> str:
    """The module, or the subpackage, of ``notifications`` that ``path`` belongs to; ``__init__`` for its front."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The absolute names that ``path`` imports, whether at the top or within a function."""
    inside = ["notifications", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def siblings(path: Path) -> set[str]:
    """The modules of ``notifications`` that ``path`` imports."""
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "notifications" and len(parts) > 1 and parts[1] in LAYER}


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_imports_only_from_its_layer_and_below(path: Path) -> None:
    module = module_of(path)
    if module == "__init__":
        return
    assert module in LAYER, f"give {module} a layer"
    above = {other for other in siblings(path) if ORDER.index(LAYER[other]) > ORDER.index(LAYER[module])}
    assert not above


@pytest.mark.parametrize("module", sorted(LAYERS["hub"]))
def test_hub_imports_neither_models_nor_log(module: str) -> None:
    assert siblings(PACKAGE / f"{module}.py") <= HUB_IMPORTS


@pytest.mark.parametrize("module", sorted(WITHOUT_DATABASE))
def test_module_below_or_beside_the_log_imports_no_database(module: str) -> None:
    assert not [name for name in imports(PACKAGE / f"{module}.py") if name.startswith("django.db")]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_app_imports_neither_demo_nor_tests(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"project", "tests", "benchmarks"}


def test_group_send_is_called_in_one_place() -> None:
    calls = [
        f"{path.name}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "group_send"
    ]
    assert len(calls) == 1, calls


def test_front_imports_nothing_that_needs_the_apps() -> None:
    front = ast.parse((PACKAGE / "__init__.py").read_text())
    at_top = [node for node in front.body if isinstance(node, ast.ImportFrom) and node.level]
    assert {node.module or node.names[0].name for node in at_top} <= LAYERS["pure"]

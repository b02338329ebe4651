"""Who may import whom, as facts about the source text of every module."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A package may import itself, what stands here, and what is installed. Nothing imports pipelines.
ALLOWED: dict[str, frozenset[str]] = {
    "feature_repo": frozenset(),
    "training": frozenset({"feature_repo"}),
    "bento": frozenset({"feature_repo", "training"}),
    "monitoring": frozenset({"feature_repo", "training"}),
    "pipelines": frozenset({"feature_repo", "training", "bento", "monitoring"}),
}
OURS = frozenset(ALLOWED) | {"tests"}
MODULES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    """Every import of a module wherever it stands, as (line, level, dotted name); level 0 is absolute.

    ``importlib.import_module("x.y")`` and ``__import__("x.y")`` with a literal name count as imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.level, node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value
            if called in {"import_module", "__import__"} and isinstance(name, str):
                yield node.lineno, len(name) - len(name.lstrip(".")), name.lstrip(".")


def violations(package: str, source: str) -> list[str]:
    """What ``source``, a module of ``package``, imports against the rule: one line of text each."""
    found = []
    for line, level, name in imports(ast.parse(source)):
        top = name.partition(".")[0]
        if level:
            found.append(f"line {line}: relative import of {name or '.'!r}")
        elif top in OURS - ALLOWED[package] - {package}:
            found.append(f"line {line}: {package} imports {name}")
    return found


def exported(tree: ast.Module) -> list[str] | None:
    """The module's ``__all__`` as written, or None without one."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def isort_order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then the rest, each by name: the order that ruff's RUF022 writes."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name


def defined(tree: ast.Module) -> set[str]:
    """Names bound at the top level of a module."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        else:
            names.update(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_downward_and_absolutely(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert violations(package, path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_module_exports_is_sorted_and_exists(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = exported(tree)
    if names is None:
        return
    assert names == sorted(set(names), key=isort_order)
    assert set(names) <= defined(tree)


@pytest.mark.parametrize(
    ("package", "source", "count"),
    [
        ("feature_repo", "import training", 1),
        ("feature_repo", "from training.dataset import build_dataset", 1),
        ("feature_repo", "def f():\n    from pipelines import cli", 1),
        ("training", "from monitoring.drift import psi", 1),
        ("training", "from bento import service", 1),
        ("monitoring", "from bento import service", 1),
        ("bento", "import pipelines.cli as cli", 1),
        ("pipelines", "from tests import oracle", 1),
        ("training", "from . import labels", 1),
        ("training", "from ..feature_repo import lake", 1),
        ("bento", "import importlib\nimportlib.import_module('pipelines.cli')", 1),
        ("monitoring", "from training.bundle import Bundle\nimport feature_repo.lake\nimport numpy", 0),
        ("pipelines", "from bento import request\nfrom monitoring import drift", 0),
        ("training", "import bentoml", 0),
    ],
)
def test_the_rule_catches_what_it_forbids_and_no_more(package: str, source: str, count: int) -> None:
    assert len(violations(package, source)) == count


def test_every_package_with_modules_is_installed_and_every_installed_package_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"
    }
    assert listed == on_disk
    assert {name.partition(".")[0] for name in listed} == set(ALLOWED)


def test_every_folder_with_modules_is_a_package() -> None:
    assert [path for path in MODULES if not (path.parent / "__init__.py").exists()] == []


def test_feast_apply_imports_the_definitions_and_nothing_else() -> None:
    folder = ROOT / "feature_repo"
    ignored = {
        line for line in (folder / ".feastignore").read_text().splitlines() if not line.startswith("#")
    }
    inside = {path.name for path in folder.glob("*.py")} | {
        f"{path.parent.name}/" for path in folder.glob("*/*.py")
    }
    assert inside - ignored == {"definitions.py"}
    assert ignored <= inside


def test_what_tests_share_stands_in_a_module_of_its_own() -> None:
    shared = [
        (path.name, name)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for _, _, name in imports(ast.parse(path.read_text()))
        if name.startswith("tests.test_")
    ]
    assert shared == []

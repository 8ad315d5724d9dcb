"""Rules of the house that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "streamrank"
OUTSIDE = {
    "bytewax",
    "confluent_kafka",
    "feast",
    "fsspec",
    "onnxruntime",
    "os",
    "random",
    "redis",
    "requests",
    "socket",
    "sqlite3",
    "subprocess",
    "time",
    "urllib",
}
PURE = [
    "events.py",
    "values.py",
    "served.py",
    "forms.py",
    "entries.py",
    "wire.py",
    "timestamps.py",
    "features",
    "ranking",
    "learning",
    "evaluation",
    "simulate.py",
]
ALLOWED = (
    "events",
    "values",
    "served",
    "forms",
    "entries",
    "wire",
    "timestamps",
    "features",
    "ranking",
    "learning",
    "evaluation",
    "errors",
)
EDGE_LIBRARIES = {
    "confluent_kafka": "kafka|topics|broker",
    "feast": "feast|views|repository",
    "redis": "feast|repository",
    "onnxruntime": "onnxruntime",
    "fsspec": "registry",
}


def modules(*places: str) -> Iterator[Path]:
    for path in (PACKAGE / place for place in places if (PACKAGE / place).exists()):
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", list(modules(*PURE)), ids=lambda path: path.stem)
def test_pure_modules_lean_on_pure_modules_alone(module: Path) -> None:
    for name in imports(module):
        package, _, rest = name.partition(".")
        assert package not in OUTSIDE
        if package == "streamrank" and rest:
            assert rest.split(".")[0] in ALLOWED


@pytest.mark.parametrize("library", list(EDGE_LIBRARIES))
def test_only_its_edge_knows_a_library(library: str) -> None:
    for module in modules("."):
        if any(name.split(".")[0] == library for name in imports(module)):
            place = module.relative_to(PACKAGE)
            named = any(module.stem.startswith(n) for n in EDGE_LIBRARIES[library].split("|"))
            exports = {Path(f"model/{n}.py") for n in ("compression", "export", "retrieval")}
            exported = place in exports and library == "onnxruntime"
            assert (place.parts[0] == "edges" and named) or exported, place


def test_no_module_unpickles() -> None:
    for module in modules("."):
        assert not {"pickle", "dill", "joblib", "cloudpickle"} & set(imports(module)), module


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = {"torch", "transformers", "feast", "bytewax", "onnxruntime", "pandas"}
    top = [
        node
        for node in ast.parse((PACKAGE / "cli.py").read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    named = {
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in top
        for alias in node.names
    }
    assert not heavy & {name.split(".")[0] for name in named}
    assert {name for name in named if name.startswith("streamrank")} <= {
        "streamrank",
        "streamrank.errors",
    }

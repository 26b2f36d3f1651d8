"""Reads the imports of our packages from their source, at the top of a module or inside a function."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

# Each package and its folder.
PACKAGES = {
    "traitwatch": ROOT / "traitwatch",
    "traitwatch_server": ROOT / "server" / "traitwatch_server",
    "traitwatch_builder": ROOT / "builder" / "traitwatch_builder",
    "traitwatch_dashboards": ROOT / "dashboards" / "traitwatch_dashboards",
}


@dataclass(frozen=True)
class Import:
    """One imported name.

    Attributes:
        module: the dotted name of the importing module.
        target: the dotted name of the imported module or object: `vllm.LLM`, `traitwatch.files.read_json`.
        line: the line of the import.
    """

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def sources(packages: Mapping[str, Path]) -> dict[str, Path]:
    """Return the file of every module of some packages, by the dotted name of the module."""
    found = {}
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, source: str) -> Iterator[Import]:
    """Yield the imports of a module.

    Raises:
            ValueError: the import is relative. The packages of this project do not use relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}:{node.lineno}: a relative import")
            yield from (Import(module, f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def resolved(target: str, modules: Mapping[str, object]) -> str | None:
    """Return the module of ours that an imported name is, or belongs to; None for a name of another project."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target or None


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle: Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in edges.get(node, ()):
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found

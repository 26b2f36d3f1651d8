"""The imports of our packages, read from their source, at the top of a module or inside a function."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

# Each package and the folder that it stands in.
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
        module: the importing module, dotted.
        target: the imported module, or the module and the name, dotted: `vllm.LLM`, `traitwatch.files.read_json`.
        line: where the import stands.
    """

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def sources(packages: Mapping[str, Path]) -> dict[str, Path]:
    """Return every module of some packages, dotted, with its file."""
    found = {}
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, source: str) -> Iterator[Import]:
    """Yield the imports of a module.

    Raises:
        ValueError: a relative import, which this project does not use in its packages.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}:{node.lineno}: a relative import")
            yield from (Import(module, f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def resolved(target: str, modules: Mapping[str, object]) -> str | None:
    """Return the module of ours that an imported name is or belongs to; None where it is another's."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target or None


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
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

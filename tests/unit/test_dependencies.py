"""The imports of every module follow the rules of dependency (docs/explanation/architecture.md).

An import inside a function counts like an import at the top of the module.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest

from tests.support.imports import PACKAGES, Import, circles, imports, resolved, sources

GROUND = "traitwatch"
MODULES = sources(PACKAGES)
IMPORTS = [found for module, path in MODULES.items() for found in imports(module, path.read_text())]

# The parts of each package, from the lowest to the highest. A part may import parts of lower rows, and itself.
LAYERS: Mapping[str, Sequence[Sequence[str]]] = {
    "traitwatch_server": [
        ["wire", "settings", "errors", "process", "pacing"],
        ["traits"],
        ["metrics"],
        ["ledger"],
        ["recording"],
        ["monitor"],
        ["responses"],
        ["app"],
        ["launch"],
        ["doctor"],
    ],
    "traitwatch_builder": [
        ["errors", "progress"],
        ["clients", "models"],
        ["definitions"],
        ["storage"],
        ["reading"],
        ["answering", "judging", "vectors"],
        ["report", "steering"],
        ["steps"],
        ["importing", "pipeline"],
        ["commands"],
    ],
    "traitwatch_dashboards": [["errors", "example_chats"], ["prometheus"], ["grafana", "inspector"], ["demo"]],
    "traitwatch_dashboards.inspector": [
        ["theme", "static_files"],
        ["api"],
        ["scored"],
        ["export"],
        ["tabs"],
        ["page_head"],
        ["app"],
        ["command"],
    ],
}
# Parts beside the layers: all parts of the package that such a part may import.
ALONE = {"traitwatch_server.worker": ["wire", "process"]}


def part(package: str, module: str) -> str:
    """Return the part of a package that a module belongs to. It is empty for the package's own `__init__`."""
    return module.removeprefix(package).lstrip(".").partition(".")[0]


def arrows(found: Sequence[Import]) -> dict[tuple[str, str], Import]:
    """Return an example for each pair of modules of which the first imports the second."""
    pairs = {}
    for one in found:
        target = resolved(one.target, MODULES)
        if target is not None and target != one.module:
            pairs[one.module, target] = one
    return pairs


def upward(found: Sequence[Import]) -> list[str]:
    """Return the imports that break the rules."""
    broken = []
    for (module, target), one in arrows(found).items():
        here, there = module.partition(".")[0], target.partition(".")[0]
        if here != there and there != GROUND:
            broken.append(f"{one}: {here} imports nothing of {there}")
        for package, layers in LAYERS.items():
            if not (module.startswith(f"{package}.") and target.startswith(f"{package}.")):
                continue
            importer, imported = part(package, module), part(package, target)
            if importer == imported:
                continue
            allowed = ALONE.get(f"{package}.{importer}")
            if allowed is None:
                height = next((i for i, row in enumerate(layers) if importer in row), len(layers))
                allowed = [name for row in layers[:height] for name in row]
            if imported not in allowed:
                broken.append(f"{one}: {importer} stands on {', '.join(allowed) or 'nothing'}, not on {imported}")
    return broken


def test_no_import_runs_up() -> None:
    assert not upward(IMPORTS)


def test_every_part_has_its_place() -> None:
    for package, layers in LAYERS.items():
        known = {name for row in layers for name in row}
        known |= {name.rpartition(".")[2] for name in ALONE if name.rpartition(".")[0] == package}
        there = {part(package, module) for module in MODULES if module.startswith(f"{package}.")} - {"__main__"}
        assert there == known, f"{package}: a part has no place, or a place has no part"


def test_no_import_circle() -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for module, target in arrows(IMPORTS):
        edges[module].add(target)
    assert not circles(edges)


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("traitwatch.files", "traitwatch_builder.storage.answers.read_answers"),
        ("traitwatch_server.app.engine", "traitwatch_builder.models.embedded.embedded_model"),
        ("traitwatch_dashboards.demo.server", "traitwatch_server.launch.command.serve"),
        ("traitwatch_server.ledger.ledger", "traitwatch_server.recording.recorder.Recorder"),
        ("traitwatch_server.worker.worker", "traitwatch_server.traits.ServedTrait"),
        ("traitwatch_builder.definitions.definition", "traitwatch_builder.storage.answers.read_answers"),
        ("traitwatch_dashboards.inspector.api.client", "traitwatch_dashboards.inspector.tabs.chat"),
    ],
)
def test_one_arrow_too_many_is_found(module: str, target: str) -> None:
    assert len(upward([*IMPORTS, Import(module, target, 1)])) == len(upward(IMPORTS)) + 1


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


# The names that vLLM documents and promises, or that every user of its Python interface imports. All other names of
# vLLM are in `traitwatch.vllm_private`, where a contract test checks them against the installed version.
PROMISED = {
    "vllm.LLM",
    "vllm.SamplingParams",
    "vllm.config.ModelConfig",
    "vllm.config.VllmConfig",
    "vllm.engine.protocol.EngineClient",
    "vllm.lora.request.LoRARequest",
    "vllm.outputs.RequestOutput",
    "vllm.platforms.current_platform",
    "vllm.sampling_params.RequestOutputKind",
}
# The same for names in strings: the group of an entry point.
PROMISED_IN_STRINGS = {"vllm.endpoint_plugins"}
PRIVATE = "traitwatch.vllm_private"
# Private names of other libraries, for which there is no public way.
OTHERS = {
    ("traitwatch.precision", "torch.ops.mkldnn._is_mkldnn_bf16_supported"),
    ("traitwatch_builder.importing.formats", "super()._get"),
    ("traitwatch_server.metrics", "histogram._sum"),
    ("traitwatch_server.recording.tally", "histogram._buckets"),
}


def unpromised(found: Sequence[Import]) -> list[str]:
    """Return the imports of names that vLLM does not promise, outside of `traitwatch.vllm_private`."""
    return [
        str(one)
        for one in found
        if one.target.partition(".")[0] == "vllm" and one.target not in PROMISED and not in_private_room(one.module)
    ]


def unpromised_in_strings(module: str, source: str) -> set[tuple[str, str]]:
    """Return the strings of a module that are a dotted name of vLLM, and that vLLM does not promise."""
    texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    names = {text for text in texts if isinstance(text, str) and re.fullmatch(r"vllm(\.\w+)+", text)}
    return {(module, name) for name in names - PROMISED_IN_STRINGS}


def in_private_room(module: str) -> bool:
    """Return whether a module may use names that vLLM does not promise."""
    return module == PRIVATE or module.startswith(f"{PRIVATE}.")


def outside() -> dict[str, str]:
    """Return the source of each module that may not use such names."""
    return {module: path.read_text() for module, path in MODULES.items() if not in_private_room(module)}


def foreign_privates(module: str, source: str) -> set[tuple[str, str]]:
    """Return the attributes with a leading underscore that a module reads from objects other than its own."""
    return {
        (module, ast.unparse(node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "other"))
    }


def test_only_the_private_room_imports_names_that_vllm_does_not_promise() -> None:
    assert not unpromised(IMPORTS)
    assert not set().union(*(unpromised_in_strings(m, source) for m, source in outside().items()))


def test_only_the_private_room_reads_private_attributes_of_others() -> None:
    assert set().union(*(foreign_privates(m, source) for m, source in outside().items())) == OTHERS


def test_a_private_name_is_found() -> None:
    assert unpromised([Import("traitwatch_server.app.engine", "vllm.v1.engine.core.EngineCoreProc", 1)])
    assert not unpromised([Import("traitwatch.vllm_private.batch", "vllm.v1.worker.gpu_input_batch.InputBatch", 1)])
    assert unpromised_in_strings("m", "run('vllm.v1.engine.core')") == {("m", "vllm.v1.engine.core")}
    assert not unpromised_in_strings("m", "'vllm.endpoint_plugins', 'See vllm.LLM.'")
    assert foreign_privates("m", "runner._prepare(1)") == {("m", "runner._prepare")}
    assert not foreign_privates("m", "self._prepare(1)")

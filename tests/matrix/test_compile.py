"""The tap works with torch.compile: after a compilation, from the cache, and beside a cached graph without a tap."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.random_llama import LAYER_OPTIONS, Oracle
from tests.support.serving import Server, plain_vllm, serving, traitwatch
from tests.support.traffic import answers, random_prompt, request

pytestmark = pytest.mark.engine


class Cache:
    """vLLM's compile cache in a directory of the test."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._servers = 0

    @contextmanager
    def serving(self, command: list[str]) -> Iterator[Server]:
        """Run a server that compiles with this cache."""
        self._servers += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLLM_CACHE_ROOT", str(self._directory / "cache"))
            patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
            log = self._directory / f"server-{self._servers}.log"
            with serving([*command, "--dtype", "float32"], log) as server:
                yield server

    def kernels(self) -> dict[Path, int]:
        """Return the time at which each compiled kernel was written, in nanoseconds."""
        compiled = self._directory / "cache" / "torch_compile_cache" / "torch_aot_compile"
        return {file.relative_to(compiled): file.stat().st_mtime_ns for file in compiled.rglob("*.so")}


def configurations(kernels: dict[Path, int]) -> set[str]:
    """Return the hashes of the configurations of the kernels. Each configuration has a folder."""
    return {kernel.parts[0] for kernel in kernels}


async def check(server: Server, oracle: Oracle) -> None:
    """Assert that requests have their projections: of one token and of many tokens, alone and together."""
    requests = [
        request(
            random_prompt(number, length),
            max_tokens=30,
            stream=number % 2 == 1,
            extra_body={"ignore_eos": True, "traits": {"prompt": number > 2}},
        )
        for number, length in enumerate((1, 2, 90, 300, 7, 40))
    ]
    got = [await answers(server, each) for each in requests]
    got += await asyncio.gather(*(answers(server, each) for each in requests))
    for [answer] in got:
        answer.check(oracle)


async def test_compiled_then_from_the_cache_beside_a_cache_without_a_tap(
    model: Path, probes: Path, oracle: Oracle, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    with cache.serving(plain_vllm(model)) as server:
        async with server.async_client() as client:
            [choice] = (await client.completions.create(**request([1, 2, 3], max_tokens=4))).choices
        assert not hasattr(choice, "traits")
    without_tap = cache.kernels()
    assert len(configurations(without_tap)) == 1

    ours = traitwatch("serve", model, "--traits", probes, *LAYER_OPTIONS)
    with cache.serving(ours) as server:
        await check(server, oracle)
    both = cache.kernels()
    assert len(configurations(both)) == 2, "the cache must have the graph with the tap and the graph without a tap"
    assert without_tap.items() < both.items()

    with cache.serving(ours) as server:
        await check(server, oracle)
    assert cache.kernels() == both, "something was compiled again"

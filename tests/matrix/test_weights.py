"""A server whose engine sleeps, whose weights are replaced, or whose prompts are embeddings, says what its scores are.

vLLM's CPU worker ignores sleep, so its memory stays. The engine is paused all the same, and our worker does all that it
does on a GPU: it writes a vector that comes meanwhile only when the engine has woken.
"""

import base64
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.answers import received_choices
from tests.support.cases import COMPLETIONS
from tests.support.random_llama import HIDDEN_SIZE, LAYER_OPTIONS, NUM_LAYERS, Oracle
from tests.support.serving import MODEL_NAME, OPERATOR, WITH_ADMIN_KEY, Server, environment, serving, traitwatch
from tests.support.waiting import until
from traitwatch.vectors import save_tensor

pytestmark = pytest.mark.engine

TRAITS = ("probe1", "probe2", "probe4")
SLOTS = 8


@dataclass(frozen=True)
class Served:
    """The server, and another model with the same shapes.

    Attributes:
        server: the server.
        model: the served model.
        other: a model with other weights.
        vectors: the directory of the server's vectors.
    """

    server: Server
    model: Path
    other: Path
    vectors: Path

    def post(self, path: str, body: Any = None) -> httpx.Response:
        answer = httpx.post(f"{self.server.url}{path}", json=body, headers=OPERATOR, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer

    def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": MODEL_NAME, "max_tokens": 6, "ignore_eos": True, "return_token_ids": True}
        return self.post(COMPLETIONS, body | fields)

    def reload(self, model: Path) -> None:
        self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(model)}})

    def stale(self) -> dict[str, bool]:
        """Return which traits the server calls stale."""
        traits = httpx.get(f"{self.server.url}/v1/traits", timeout=60).json()["data"]
        return {trait["id"]: trait["stale"] for trait in traits}

    def stale_by_metric(self) -> dict[str, bool]:
        return {
            sample.labels["trait"]: bool(sample.value)
            for sample in self.server.samples()
            if sample.name == "traitwatch_vector_stale"
        }

    def wait_stale(self, wanted: dict[str, bool]) -> None:
        until(lambda: self.stale() == wanted == self.stale_by_metric(), 20, message=self.stale)


@pytest.fixture(scope="module")
def served(model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("weights")
    vectors = Path(shutil.copytree(probes, root / "vectors"))
    other = Path(shutil.copytree(model, root / "other"))
    changed = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight[3, 5] += 2.0
    changed.save_pretrained(other)
    options = ["--traits-admin", "--dtype", "float32", "--enforce-eager", "--enable-prompt-embeds"]
    options += ["--max-num-seqs", str(SLOTS), "--max-num-batched-tokens", "64"]
    command = [*WITH_ADMIN_KEY, *traitwatch("serve", model, "--traits", vectors, *LAYER_OPTIONS, *options)]
    variables = environment() | {"VLLM_SERVER_DEV_MODE": "1"}
    with serving(command, root / "server.log", variables=variables) as server:
        yield Served(server, model, other, vectors)


def test_replaced_weights_make_the_vectors_stale_until_the_old_weights_are_back(served: Served, oracle: Oracle) -> None:
    fresh, stale = dict.fromkeys(TRAITS, False), dict.fromkeys(TRAITS, True)
    served.complete(prompt="The sea was calm")
    served.wait_stale(fresh)
    # The same file again: vLLM loads every weight anew, and none is another.
    served.reload(served.model)
    served.complete(prompt="The sea was calm")
    assert served.stale() == fresh
    served.reload(served.other)
    served.wait_stale(stale)
    assert "weights were replaced" in served.server.log.read_text()
    # The scores are those of the new weights, with the old vectors.
    (one,) = received_choices(served.complete(prompt="The sea was calm")).values()
    assert one.complete is True
    Oracle(served.other, served.vectors).check(one.traits, one.prompt, one.tokens)
    # A vector that is loaded now counts as made for the new weights.
    served.post("/v1/traits/probe1", {"layer": 1})
    served.wait_stale(stale | {"probe1": False})
    served.reload(served.model)
    served.wait_stale(fresh | {"probe1": True})
    served.post("/v1/traits/probe1", {"layer": 1})
    served.wait_stale(fresh)
    (one,) = received_choices(served.complete(prompt="The sea was calm")).values()
    oracle.check(one.traits, one.prompt, one.tokens)


def test_a_vector_that_is_loaded_while_the_engine_sleeps_scores_when_it_has_woken(
    served: Served, model: Path, tmp_path: Path
) -> None:
    vector = np.random.default_rng(11).standard_normal((NUM_LAYERS + 1, HIDDEN_SIZE)).astype(np.float32)
    for directory in (served.vectors, tmp_path):
        save_tensor(vector, directory / "late_response_avg_diff.pt")
    # The oracle reads its vectors under the names of the probes.
    (tmp_path / "late_response_avg_diff.pt").rename(tmp_path / "probe2_response_avg_diff.pt")
    for level, tags in ((2, None), (1, None), (2, ("weights", "kv_cache"))):
        served.post(f"/sleep?level={level}")
        served.post("/v1/traits/late", {"layer": 2})
        for path in ["/wake_up"] if tags is None else [f"/wake_up?tags={tag}" for tag in tags]:
            served.post(path)
        (one,) = received_choices(served.complete(prompt="The sea was calm")).values()
        assert one.complete is True
        Oracle(model, tmp_path).check({"probe2": one.traits["late"]}, one.prompt, one.tokens)
        deleted = httpx.delete(f"{served.server.url}/v1/traits/late", headers=OPERATOR, timeout=60)
        assert deleted.status_code == 200


def test_a_prompt_of_embeddings_is_scored_whatever_ids_its_place_in_the_batch_had_before(
    served: Served, model: Path, probes: Path
) -> None:
    """A prompt of embeddings has no ids. The worker's batch holds those of the request that had its place before."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = list(range(40, 140))
    embeddings = plain.get_input_embeddings()(torch.tensor(ids)).detach().clone()
    file = io.BytesIO()
    torch.save(embeddings, file)
    prompt = base64.b64encode(file.getvalue()).decode()
    long = " ".join(["the sea was calm and the wind was low"] * 12)
    with ThreadPoolExecutor(SLOTS) as clients:
        list(clients.map(lambda number: served.complete(prompt=f"{number} {long}"), range(SLOTS)))
    before = served.server.metric("traitwatch_responses_incomplete_total")
    answer = served.complete(prompt_embeds=prompt, n=4, traits={"prompt": True}, temperature=1.0)
    choices = answer.json()["choices"]
    assert len(choices) == 4
    directions = Oracle(model, probes)
    for choice in choices:
        assert choice["traits_complete"] is True
        directions.check(choice["traits"], ids, choice["token_ids"])
        for name, projections in directions.projections([*ids, *choice["token_ids"]]).items():
            got = choice["traits"][name]["prompt_tokens"]
            assert np.abs(np.array(got) - projections[: len(ids)]).max() < 2e-3 * projections.std()
    assert served.server.metric("traitwatch_responses_incomplete_total") == before

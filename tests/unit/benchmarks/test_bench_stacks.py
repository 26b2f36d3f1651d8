"""Each of py-spy's stacks counts for the owner of the work."""

from tests.benchmarks.serving.stacks import OTHER, OURS, Share, owner, read_stacks, shares

# The format of py-spy 0.4 with --format raw --threads --function.
OUTER = "thread (1): MainThread;Runner.run (asyncio/runners.py:86)"
ATTACH = "Attacher.event (traitwatch_server/responses/attach.py:34)"
STACKS = f"""
{OUTER} 7
{OUTER};_AnswerRewriter._event (traitwatch_server/responses/middleware.py:153);{ATTACH} 3
{OUTER};{ATTACH};round (numpy/_core/fromnumeric.py:3618) 2
{OUTER};{ATTACH};RequestResponseCycle.send (uvicorn/protocols/http/httptools_impl.py:463) 5
{OUTER};stream (vllm/entrypoints/openai/serving.py:466);BaseModel.model_dump_json (pydantic/main.py:538) 4
{OUTER};call (traitwatch_server/m.py:20);output_handler (vllm/v1/engine/async_llm.py:845);getenv (<frozen os>:773) 6
thread (2): AnyIO worker thread;Queue.get (queue.py:154);Condition.wait (threading.py:295) 90
thread (3): MPClientEngineMonitor;wait (multiprocessing/c.py:933);_PollLikeSelector.select (selectors.py:402) 90
thread (4): helper;work (other/place.py:1) 1
"""


def test_the_innermost_frame_with_an_owner_has_the_sample() -> None:
    owners, functions = shares(read_stacks(STACKS))
    samples = {share.owner.split(" (")[0].split(",")[0]: share.samples for share in owners}
    assert samples == {"event loop and HTTP": 12, "vLLM": 6, OURS: 5, "pydantic": 4, OTHER: 1}
    assert functions == [Share(OURS, "traitwatch_server/responses/attach.py:Attacher.event", 5)]


def test_threads_that_wait_do_not_work() -> None:
    assert sum(stack.samples for stack in read_stacks(STACKS)) == 28


def test_uvicorns_own_server_module_is_not_ours() -> None:
    (stack,) = read_stacks("thread (1): MainThread;Server.serve (uvicorn/server.py:71) 1")
    assert owner(stack)[0].startswith("event loop")

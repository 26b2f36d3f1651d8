"""Keeps vLLM's engine in one process on a CPU.

By default, vLLM's engine and its worker are two processes on a CPU. They wait for each other by spinning, and spinning
takes cores from the arithmetic. Measured on two cores of an EPYC, with two processes and with one: `traitwatch demo
--once` takes 45 s and 35 s, a server of the tests starts in 24 s and 17 s, and needs 39 s and 22 s of CPU time.

On a GPU, one process is vLLM's default. Engines with several workers have a process for each worker on any device.
"""

# vLLM reads this environment variable. With "0" on a CPU, the engine's process runs the worker itself.
MULTIPROCESSING = "VLLM_ENABLE_V1_MULTIPROCESSING"
# Environment variables for a server of ours. They have no effect on a GPU.
ONE_PROCESS = {MULTIPROCESSING: "0"}

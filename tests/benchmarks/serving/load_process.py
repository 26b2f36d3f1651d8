"""The process that makes the load. It calls `vllm bench serve` for every line of its standard input.

It runs the parser and the main function of `vllm bench serve`. The `vllm` command itself needs distribution metadata
that the CPU build does not have. The process stays up between loads: importing vLLM takes ten seconds of both cores,
and would slow the servers under test. A line of the input is a JSON list of arguments. A line of the output is `done`.
The output of the load generator goes to standard error.
"""

import json
import os
import sys

from vllm.entrypoints.cli.benchmark.serve import BenchmarkServingSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Serve loads until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parser = FlexibleArgumentParser()
    BenchmarkServingSubcommand.add_cli_args(parser)
    for line in sys.stdin:
        BenchmarkServingSubcommand.cmd(parser.parse_args(json.loads(line)))
        sys.stdout.flush()
        answers.write("done\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""Measures the cost of Traitwatch: plain vLLM's server and ours in turn, under the load of vLLM's load generator."""

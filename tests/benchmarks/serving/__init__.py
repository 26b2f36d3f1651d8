"""The price of Traitwatch: plain vLLM's server against ours, load from vLLM's own load generator, interleaved."""

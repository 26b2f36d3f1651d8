"""vLLM's OpenAI server with the projection of every generated token attached to its response."""

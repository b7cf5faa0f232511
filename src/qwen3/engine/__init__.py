"""Generation: requests, cache, sampling, and the `LLM` that users hold."""

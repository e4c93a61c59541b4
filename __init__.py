"""kvstrata: a tiered store that lets LLM inference engines keep and reuse KV caches."""

__version__ = "0.1.0"

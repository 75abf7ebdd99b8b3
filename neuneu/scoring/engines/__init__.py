"""Engines that score: vLLM and transformers behind one protocol, and the proof of a swap."""

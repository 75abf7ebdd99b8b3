"""Makes the engine that a config names."""

from pathlib import Path

from neuneu.scoring.engines.engines import EngineConfig
from neuneu.scoring.engines.scorer import Scorer


def make_scorer(config: EngineConfig, folder: Path) -> Scorer:
    """Starts an engine for the architecture of a checkpoint and loads that checkpoint.

    Raises:
        CheckpointError: these weights cannot be used.
        EngineError: the engine does not start or does not hold the weights it was given.
    """
    if config.kind == "vllm":
        from neuneu.scoring.engines.vllm_scorer import VllmScorer

        return VllmScorer(config, folder)
    from neuneu.scoring.engines.hf_scorer import HfScorer

    return HfScorer(config, folder)

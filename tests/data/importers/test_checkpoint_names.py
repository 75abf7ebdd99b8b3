"""Names of checkpoints as they are found on hubs and on disks."""

import pytest

from neuneu.data.importers.checkpoint_names import parse_checkpoint

NAMES = [
    (("EleutherAI/pythia-160m", "step1000"), ("pythia-160m", 1000, None)),
    (("allenai/OLMo-1B", "step1000-tokens4B"), ("OLMo-1B", 1000, 4e9)),
    (("x/OLMo-2-1B", "stage1-step140000-tokens294B"), ("OLMo-2-1B-stage1", 140000, 294e9)),
    (("allenai/DataDecide-c4-300M", "step1250-seed-default"),
     ("DataDecide-c4-300M-seed-default", 1250, None)),
    (("LLM360/Amber", "ckpt_100"), ("Amber", 100, None)),
    (("TinyLlama/TinyLlama-1.1B-step-50K-105b", ""), ("TinyLlama-1.1B", 50000, 105e9)),
    (("a/b-300B-tokens", "main"), ("b", None, 300e9)),
    (("/ckpts/my-run/checkpoint-500", ""), ("my-run", 500, None)),
    (("out/my-run-step1000", ""), ("my-run", 1000, None)),
    (("/x/my-run/step20k-hf/", ""), ("my-run", 20000, None)),
    (("/x/my-run/global_step123/hf", ""), ("my-run", 123, None)),
    (("my-run/iter_0001000", ""), ("my-run", 1000, None)),
    (("mistralai/Mistral-7B-v0.1", "main"), ("Mistral-7B-v0.1", None, None)),
    (("m", "0b6c1c1a7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a"), ("m", None, None)),
    (("meta/steplaw-7b", ""), ("steplaw-7b", None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("names", "expected"), NAMES, ids=lambda pair: str(pair[0]))
def test_model_and_revision(names, expected) -> None:
    parsed = parse_checkpoint(model=names[0], revision=names[1])
    assert (parsed.run, parsed.step, parsed.tokens) == expected


def test_folders_tell_what_the_model_does_not() -> None:
    parsed = parse_checkpoint(folders=["", "step5", "mine", "evals"])
    assert (parsed.run, parsed.identity, parsed.step) == ("mine", "evals/mine", 5)
    parsed = parse_checkpoint(model="tiny", folders=["scores", "step5", "evals"])
    assert (parsed.run, parsed.identity, parsed.step) == ("tiny", "evals/tiny", 5)
    parsed = parse_checkpoint(model="tiny-step7", folders=["scores", "step5", "evals"])
    assert (parsed.identity, parsed.step) == ("tiny", 7)
    parsed = parse_checkpoint(folders=["1.4b_step33000", "evals"])
    assert (parsed.run, parsed.step) == ("1.4b", 33000)

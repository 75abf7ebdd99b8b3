"""What the driver of an extraction does before it needs a cluster."""

from pathlib import Path

import pytest
from tiny_checkpoints import extract_config, make_ref, save_checkpoint, write_inputs

from neuneu.core.errors import UserError
from neuneu.data.store.store import CheckpointRows, Store
from neuneu.scoring.checkpoints.preflight import inspect
from neuneu.scoring.checkpoints.sources import list_checkpoints
from neuneu.scoring.evaluation import checkpoint_row
from neuneu.scoring.pipeline import _group, extract
from neuneu.scoring.summary import ExtractSummary

pytest.importorskip("transformers")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for run, step in (("a", 1), ("a", 2), ("b", 1), ("b", 2)):
        save_checkpoint(tmp_path / "checkpoints", run=run, step=step, tied=True)
    write_inputs(tmp_path)
    return tmp_path


def test_extract_of_malformed_configs_quarantines_each_and_ends(root: Path) -> None:
    for content, folder in zip(
        ("[", '{"model_type": "llama", "vocab_size": "abc"}', "[" * 10**5, "[]"),
        sorted((root / "checkpoints").glob("*/step-*")),
        strict=True,
    ):
        (folder / "config.json").write_text(content)
    summary = extract(extract_config(root))
    assert (summary.listed, summary.quarantined, summary.done) == (4, 4, 0)
    rows = Store(root / "store").checkpoints().to_pylist()
    assert {row["status"] for row in rows} == {"quarantined"}
    assert all("config.json" in row["error"] for row in rows)


def test_extract_with_a_name_that_no_run_has_scores_nothing(root: Path) -> None:
    with pytest.raises(UserError, match=r"mixed_tokenizers: no run is named 'c'; .* a, b\."):
        extract(extract_config(root, mixed_tokenizers=("tiny/a", "c")))
    assert not (root / "store").exists()


def test_driver_expects_the_tokenizer_that_the_store_has(root: Path) -> None:
    """Three checkpoints are left, beside one of another tokenizer that is done."""
    config = extract_config(root, mixed_tokenizers=("tiny/b",))
    store = Store(config.store)
    store.bind({})
    refs = list_checkpoints(config.checkpoints)
    done = checkpoint_row(refs[0], status="done", error=None, attempts=1, checked=inspect(refs[0]))
    done["tokenizer_hash"] = "0123456789abcdef"
    store.commit(CheckpointRows(checkpoint=done, accuracies=[], losses=[], token_losses=[]))
    bad = make_ref(root / "nowhere", run="c")
    summary = ExtractSummary(store=config.store, engine="")
    groups = _group(config, store, store.progress(), [*refs[1:], bad], summary)
    found = {item.ref.key[1:]: item.tokenizer_hash for item in groups.pending}
    assert found == {("a", 2): "0123456789abcdef", ("b", 1): None, ("b", 2): None}
    assert summary.quarantined == 1

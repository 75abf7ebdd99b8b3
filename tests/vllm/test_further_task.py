"""A task added to a store of 50 checkpoints costs only that task, by vLLM's own statistics."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from in_process import score
from tiny_checkpoints import WINDOW, extract_config, save_checkpoint, write_inputs

from neuneu.data.store.recomputation import recompute
from neuneu.data.store.store import Store
from neuneu.scoring.engines.engine import read_tokenizer
from neuneu.scoring.evaluation import make_workload
from neuneu.scoring.wanted import load_wanted

vllm = pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CHECKPOINTS = 50
# After a start or a swap, a fixed prompt proves the weights; vLLM counts it too.
FIXED_PROMPT = 24


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines that were started, with vLLM's statistics switched on."""
    from neuneu.scoring.engines import vllm_scorer

    started: list[Any] = []

    class Counted(vllm.LLM):  # type: ignore[name-defined, misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, disable_log_stats=False, **kwargs)
            started.append(self)

    monkeypatch.setattr(vllm_scorer, "LLM", Counted)
    return started


def computed(engine: Any) -> int:
    """Prompt tokens that an engine computed, as vLLM counts them; none came from a cache.

    The counters are those of the process, which a further engine resets: ask before it starts.
    """
    by_source = {
        metric.labels["source"]: metric.value
        for metric in engine.get_metrics()
        if metric.name == "vllm:prompt_tokens_by_source" and metric.value
    }
    assert by_source.keys() == {"local_compute"}
    return int(by_source["local_compute"])


def test_a_further_task_over_50_checkpoints_costs_only_itself(
    tmp_path: Path, engines: list[Any]
) -> None:
    for step in range(1, CHECKPOINTS + 1):
        save_checkpoint(tmp_path / "checkpoints", run="a", step=step, tied=True)
    write_inputs(tmp_path)
    pairs = tmp_path / "pairs.parquet"
    pq.write_table(pq.read_table(pairs).slice(2), pairs)  # fewer of the first task
    vllm_engine = {"kind": "vllm", "max_model_len": WINDOW, "max_num_batched_tokens": 512}
    one = extract_config(tmp_path, engine=vllm_engine, tasks=(f"blimp/blimp_first:{pairs}",))
    both = extract_config(tmp_path, engine=vllm_engine)
    tokenizer = read_tokenizer(tmp_path / "checkpoints/a/step-1")

    def tokens(*names: str) -> int:
        wanted = load_wanted(both)
        only = wanted.only([part for part in wanted.parts if part.name in names])
        assert len(only.parts) == len(names)
        return make_workload(only, tokenizer, max_tokens=WINDOW - 1).n_tokens

    assert tokens("blimp_first") < tokens("blimp_second") < tokens("corpus")
    first = score(one)
    assert computed(engines[0]) == CHECKPOINTS * (tokens("corpus", "blimp_first") + FIXED_PROMPT)
    store = Store(one.store)
    before = store.accuracies().to_pylist()

    second = score(both)
    assert computed(engines[1]) == CHECKPOINTS * (tokens("blimp_second") + FIXED_PROMPT)
    # What an extraction reports of itself is what vLLM counted, less the fixed prompts.
    assert {o.computed_tokens for o in second} == {o.tokens for o in second}
    assert [o.tokens for o in second] == [tokens("blimp_second")] * CHECKPOINTS
    assert [len(o) for o in (first, second, engines)] == [CHECKPOINTS, CHECKPOINTS, 2]

    after = store.accuracies().to_pylist()
    assert [row for row in after if row["task"] == "blimp_first"] == before
    assert len(after) == 2 * len(before) == 2 * 3 * CHECKPOINTS
    assert recompute(store).differing == 0

"""Tasks of lm-evaluation-harness: their requests, and the same scores as the harness gives."""

import json
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_checkpoints

from neuneu.core.errors import DataError, UserError
from neuneu.data.choice_metrics import METRICS
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packed_scorer import PackedScorer
from neuneu.scoring.multiple_choice import Task, accuracies
from neuneu.scoring.prompts import encode_requests
from neuneu.scoring.tasks import load_tasks

lm_eval = pytest.importorskip("lm_eval")

N_DOCUMENTS = 40
WINDOW = 1536
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "quick", "lazy", "fox", "3.5", "km")
SCRIPTS = ("naïve", "café", "—", "你好", "мир", "🙂")


def phrase(rng, low, high):
    return " ".join(rng.choices(WORDS + SCRIPTS, k=rng.randint(low, high)))


def documents(n, *, seed):
    """Questions with four choices, of one letter to sixty words, in several scripts."""
    rng = random.Random(seed)
    return [
        {
            "q": phrase(rng, 3, 20),
            "choices": [phrase(rng, 1, high) for high in (1, 4, 12, 60)],
            "lettered": [f"{text} " for text in "ABCD"],
            "label": rng.randrange(4),
            "starts": [f"{phrase(rng, 4, 9)} {name}" for name in ("fox", "lazy dog")],
            "which": rng.randrange(2),
            "ending": phrase(rng, 2, 6),
            "good": phrase(rng, 4, 8),
            "bad": phrase(rng, 4, 8),
        }
        for _ in range(n)
    ]


PLAIN = """
doc_to_text: "Question: {{q}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: label
"""
CONFIGS = {
    "plain": PLAIN,
    "fewshot": PLAIN + "fewshot_split: train\nnum_fewshot: 5\n",
    "fixed": PLAIN + "fewshot_split: train\nnum_fewshot: 0\n",
    "first_shots": PLAIN
    + "description: 'Questions with answers.\\n\\n'\n"
    + "fewshot_split: train\nfewshot_config:\n  sampler: first_n\n",
    "two_contexts": "doc_to_text: which\ndoc_to_choice: starts\ndoc_to_target: ending\n",
    "two_contexts_fewshot": "doc_to_text: which\ndoc_to_choice: starts\ndoc_to_target: ending\n"
    + "fewshot_split: train\nnum_fewshot: 3\n",
    "pairs": 'doc_to_text: ""\ndoc_to_choice: "{{[good, bad]}}"\ndoc_to_target: 0\n',
    "letters": 'doc_to_text: "{{q}}\\nAnswer:"\ndoc_to_choice: ["A", "B", "C", "D"]\n'
    + "doc_to_target: label\n",
    "white_space": 'doc_to_text: "{{q}} \\n  "\ntarget_delimiter: ""\n'
    + "doc_to_choice: choices\ndoc_to_target: label\n",
    "new_line": 'doc_to_text: "{{q}}"\ntarget_delimiter: "\\n"\n'
    + "doc_to_choice: lettered\ndoc_to_target: label\n",
    "by_text": 'doc_to_text: "{{q}}"\ndoc_to_choice: choices\n'
    + 'doc_to_target: "{{choices[label]}}"\n',
    "several": 'doc_to_text: "{{q}}"\ndoc_to_choice: choices\ndoc_to_target: "{{[0, 1]}}"\n',
    "unlabelled": 'doc_to_text: "{{q}}"\ndoc_to_choice: choices\ndoc_to_target: "nothing"\n',
    "generating": 'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{ending}}"\n'
    + "metric_list: [{metric: exact_match}]\n",
}
SCORED_ALIKE = (
    "plain",
    "fewshot",
    "first_shots",
    "two_contexts",
    "two_contexts_fewshot",
    "pairs",
    "letters",
    "white_space",
    "new_line",
    "by_text",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of task configs, as a user's."""
    root = tmp_path_factory.mktemp("tasks")
    for split, seed in (("train", 1), ("test", 2)):
        rows = documents(N_DOCUMENTS, seed=seed)
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {split: str(root / f"{split}.jsonl") for split in ("train", "test")},
            "cache_dir": str(root / "cache"),
        },
        "test_split": "test",
    }
    scores = {
        "output_type": "multiple_choice",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in METRICS
        ],
    }
    for name, text in CONFIGS.items():
        head = common | ({} if "output_type" in text else scores) | {"task": f"tiny_{name}"}
        lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
        (root / f"{name}.yaml").write_text("\n".join([*lines, text]))
    return root


def load(folder, spec):
    return load_tasks([f"{spec}:{folder}"], limit=None, seed=0, text=None)


def test_a_task_becomes_requests_with_the_harness_prompts(folder):
    (task,) = load(folder, "lm_eval/tiny_plain")
    document = documents(1, seed=2)[0]
    assert (task.name, task.base_task, task.format) == ("tiny_plain", "tiny_plain", "rc")
    assert (task.split, task.group, task.num_fewshot) == ("test", "other", 0)
    assert (task.chance, task.n_items) == (0.25, N_DOCUMENTS)
    assert [(r.context, r.continuation, r.label, r.choice_text) for r in task.requests[:4]] == [
        (f"Question: {document['q']}\nAnswer:", f" {choice}", document["label"], None)
        for choice in document["choices"]
    ]


def test_examples_come_before_the_question_as_many_as_asked(folder):
    def shots(spec):
        (task,) = load(folder, spec)
        counts = {request.context.count("Question: ") - 1 for request in task.requests}
        assert counts == {task.num_fewshot}
        return task.num_fewshot

    assert shots("lm_eval/tiny_fewshot") == 5
    assert shots("lm_eval@2shot/tiny_fewshot") == 2
    assert shots("lm_eval@0shot/tiny_fewshot") == 0
    with pytest.raises(UserError, match="num_fewshot: 0, which the harness does not override"):
        load(folder, "lm_eval@5shot/tiny_fixed")
    with pytest.raises(UserError, match="cannot build its prompts with 99 examples"):
        load(folder, "lm_eval@99shot/tiny_fewshot")


def test_what_is_measured_is_the_choice_not_the_continuation(folder):
    document = documents(1, seed=2)[0]
    (contexts,) = load(folder, "lm_eval/tiny_two_contexts")
    first = contexts.requests[:2]
    assert [(r.context, r.continuation, r.measured) for r in first] == [
        (start, f" {document['ending']}", start) for start in document["starts"]
    ]
    assert [request.label for request in first] == [document["which"]] * 2
    (lines,) = load(folder, "lm_eval/tiny_new_line")
    assert (lines.requests[0].continuation, lines.requests[0].measured) == ("\nA ", "A ")


def test_formats_are_told_from_the_requests(folder):
    found = {
        task.name: task.format
        for spec in ("lm_eval/tiny_pairs", "lm_eval/tiny_letters", "lm_eval/tiny_by_text")
        for task in load(folder, spec)
    }
    assert found == {"tiny_pairs": "minimal_pair", "tiny_letters": "mc", "tiny_by_text": "rc"}


def test_a_pattern_takes_every_task_that_it_matches(folder):
    names = [task.name for task in load(folder, "lm_eval/tiny_two_*")]
    assert sorted(names) == ["tiny_two_contexts", "tiny_two_contexts_fewshot"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tiny_generating", UserError, "output_type is 'generate_until'; expected .* 'multiple_ch"),
        ("tiny_several", UserError, "its documents have several correct choices"),
        ("tiny_unlabelled", DataError, "document 0: expected at least two choices and the correct"),
    ],
)
def test_a_task_that_scores_otherwise_is_refused(folder, name, error, message):
    with pytest.raises(error, match=message):
        load(folder, f"lm_eval/{name}")


def test_data_that_is_not_there_is_one_line(folder, tmp_path):
    text = (folder / "plain.yaml").read_text().replace("test.jsonl", "none.jsonl")
    (tmp_path / "plain.yaml").write_text(text)
    with pytest.raises(UserError, match=r"tiny_plain: .* cannot load it .*none\.jsonl") as caught:
        load(tmp_path, "lm_eval/tiny_plain")
    assert "\n" not in str(caught.value)


def test_without_the_harness_the_message_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserError, match=r"pip install 'neuneu\[lm-eval\]'"):
        load(folder, "lm_eval/tiny_plain")


@pytest.mark.slow
def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match=r"no such task; did you mean .*arc_easy"):
        load_tasks(["lm_eval/arc_eazy"], limit=None, seed=0, text=None)


def model_folder(tmp_path_factory, *, bos):
    """A random Llama with a trained tokenizer, which puts bos before texts or does not."""
    path = tmp_path_factory.mktemp("model")
    tiny_checkpoints.save_model(path, tied=False, seed=5, max_position_embeddings=WINDOW)
    if bos:
        from tokenizers import Tokenizer, processors

        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
        tokenizer.save(str(path / "tokenizer.json"))
    return path


def harness_samples(model, folder, max_tokens):
    """Per task, by document: (log-likelihoods, scores) as `simple_evaluate` logs them."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # The harness feeds all but the last of max_length + 1 tokens, we at most max_tokens in all.
    lm = HFLM(
        pretrained=str(model),
        dtype="float32",
        device="cpu",
        batch_size=1,
        max_length=max_tokens - 1,
    )
    result = lm_eval.simple_evaluate(
        lm,
        tasks=[f"tiny_{name}" for name in SCORED_ALIKE],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    return {
        task: {
            sample["doc_id"]: (
                [loglikelihood for loglikelihood, _ in sample["filtered_resps"]],
                [sample[metric] for metric in METRICS],
            )
            for sample in samples
        }
        for task, samples in result["samples"].items()
    }


def our_samples(model, folder, max_tokens):
    """The same by us, and the longest prompt in tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    scorer = PackedScorer(EngineConfig(max_num_batched_tokens=4096), model)
    found, longest = {}, 0
    for name in SCORED_ALIKE:
        (task,) = load(folder, f"lm_eval/tiny_{name}")
        encoded = encode_requests(task.requests, tokenizer, prefix_token=0, max_tokens=max_tokens)
        sums = np.array([found.sum() for found in encoded.each(scorer.score(encoded))])
        longest = max(longest, int(encoded.lengths.max()))
        docs = np.array([request.doc for request in task.requests])
        found[task.name] = {
            int(doc): (sums[docs == doc].tolist(), scores_of(task, int(doc), sums[docs == doc]))
            for doc in np.unique(docs)
        }
    return found, longest


def scores_of(task: Task, doc, sums):
    alone = replace(task, requests=tuple(r for r in task.requests if r.doc == doc))
    return [score.value for score in accuracies(alone, sums)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bos", "max_tokens"), [(False, WINDOW - 1), (True, 200)], ids=["whole", "bos and cut"]
)
def test_every_document_scores_as_in_the_harness(folder, tmp_path_factory, bos, max_tokens):
    pytest.importorskip("accelerate")  # The harness' transformers models need it.
    model = model_folder(tmp_path_factory, bos=bos)
    theirs = harness_samples(model, folder, max_tokens)
    ours, longest = our_samples(model, folder, max_tokens)
    assert (longest == max_tokens) == (max_tokens < WINDOW - 1)
    assert set(ours) == set(theirs) == {f"tiny_{name}" for name in SCORED_ALIKE}
    for task, by_doc in theirs.items():
        assert set(ours[task]) == set(by_doc) == set(range(N_DOCUMENTS))
        for doc, (loglikelihoods, scores) in by_doc.items():
            assert ours[task][doc][0] == pytest.approx(loglikelihoods, abs=1e-3), (task, doc)
            assert ours[task][doc][1] == scores, (task, doc)
    # The documents tell the metrics apart, so that the equality above means something.
    columns = np.array([scores for _, scores in theirs["tiny_plain"].values()]).T
    assert len({tuple(column) for column in columns}) == len(METRICS)

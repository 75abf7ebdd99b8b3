"""Task specs, the choice of documents, and the BLiMP and OLMES layouts."""

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.core.errors import DataError, UserError
from neuneu.data.schemas import TASKS
from neuneu.scoring import tasks as tasks_module
from neuneu.scoring.multiple_choice import Request, Task
from neuneu.scoring.tasks import (
    declarations,
    load_tasks,
    subsample,
    task_hash,
    task_rows,
    tasks_hash,
)


def load(*specs, limit=None, seed=0):
    return load_tasks(specs, limit=limit, seed=seed, text=None)


@pytest.fixture
def blimp(tmp_path):
    rows = [
        (task, field, pair, f"{task} good {pair}", f"{task} bad {pair}")
        for task, field in (("wh_island", "syntax"), ("npi_present_1", "semantics"))
        for pair in (2, 0, 1)
    ]
    columns = ("task", "field", "pair_id", "sentence_good", "sentence_bad")
    table = pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "blimp.parquet")
    return tmp_path / "blimp.parquet"


def line(doc, choice, label, *, context="Question: q\nAnswer:", continuation=None):
    return {
        "request_type": "loglikelihood",
        "doc": {"gold": label},
        "request": {"context": context, "continuation": continuation or f" choice {choice}"},
        "idx": choice,
        "task_name": "any",
        "doc_id": doc,
        "native_id": None,
        "label": label,
    }


def write_olmes(root, task, regime, lines, *, num_shots=0, split="validation"):
    folder = root / task / regime
    folder.mkdir(parents=True)
    config = {"task_name": task, "task_config": {"num_shots": num_shots, "split": split}}
    (folder / "config.json").write_text(json.dumps(config))
    with gzip.open(folder / "requests.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" if isinstance(row, dict) else row for row in lines)


@pytest.fixture
def olmes(tmp_path):
    root = tmp_path / "olmes"
    lines = [line(1, 0, 1), line(1, 1, 1), line(0, 1, 2), line(0, 0, 2), line(0, 2, 2)]
    unconditional = [line(1_000_000, choice, 2, context="Answer:") for choice in range(3)]
    write_olmes(root, "arc_easy", "rc_0shot", [*lines, *unconditional])
    write_olmes(root, "arc_easy", "rc_5shot", lines, num_shots=5)
    winogrande = [line(0, i, 1, context=f"name {i}", continuation=" ran.") for i in range(2)]
    write_olmes(root, "winogrande", "rc_0shot", winogrande)
    write_olmes(root, "social_iqa", "mc_5shot", winogrande, num_shots=5, split="test")
    return root


def test_blimp_pairs_have_the_good_sentence_first(blimp):
    npi, wh = sorted(load(f"blimp:{blimp}"), key=lambda task: task.name)
    assert (npi.name, npi.base_task, npi.group) == (*["blimp_npi_present_1"] * 2, "blimp")
    assert (wh.name, wh.format, wh.chance, wh.n_items) == (
        "blimp_wh_island",
        "minimal_pair",
        0.5,
        3,
    )
    assert [(r.doc, r.choice, r.context, r.continuation, r.label) for r in wh.requests[:3]] == [
        (0, 0, "", "wh_island good 0", 0),
        (0, 1, "", "wh_island bad 0", 0),
        (1, 0, "", "wh_island good 1", 0),
    ]


def test_blimp_tells_what_is_wrong(blimp, tmp_path):
    table = pq.read_table(blimp)
    path = tmp_path / "broken.parquet"
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(DataError, match="wh_island, document 2: appears twice"):
        load(f"blimp:{path}")
    pq.write_table(table.drop_columns(["field"]), path)
    with pytest.raises(DataError, match=r"missing columns \['field'\]"):
        load(f"blimp:{path}")
    nulls = pa.nulls(table.num_rows, pa.string())
    pq.write_table(table.drop_columns(["sentence_bad"]).append_column("sentence_bad", nulls), path)
    with pytest.raises(DataError, match="column 'sentence_bad' has missing values"):
        load(f"blimp:{path}")
    path.write_bytes(b"no")
    with pytest.raises(DataError, match="expected parquet"):
        load(f"blimp:{path}")


def test_olmes_requests_are_sorted_and_unconditional_ones_attached(olmes):
    arc, winogrande = load(f"olmes:{olmes}")
    assert [(r.doc, r.choice, r.label) for r in arc.requests] == [
        (0, 0, 2),
        (0, 1, 2),
        (0, 2, 2),
        (1, 0, 1),
        (1, 1, 1),
    ]
    assert (arc.name, arc.base_task, arc.format) == ("arc_easy_rc_0shot", "arc_easy", "rc")
    assert (arc.split, arc.group, arc.num_fewshot) == ("val", "science_and_math", 0)
    assert arc.chance == pytest.approx((1 / 3 + 1 / 2) / 2)
    alone = [r.unconditional for r in arc.requests]
    assert alone == [("Answer:", f" choice {choice}") for choice in range(3)] + [None] * 2
    assert [r.context for r in winogrande.requests] == ["name 0", "name 1"]
    assert winogrande.group == "commonsense_and_reading"


def test_olmes_specs_choose_regimes_and_tasks(olmes):
    def names(spec):
        return [task.name for task in load(f"{spec}:{olmes}")]

    assert names("olmes@rc_5shot") == ["arc_easy_rc_5shot"]
    assert names("olmes/arc_*") == ["arc_easy_rc_0shot", "arc_easy_rc_5shot"]
    assert names("olmes@rc_*/arc_easy_rc_5shot") == ["arc_easy_rc_5shot"]
    assert len(names("olmes@*")) == 4
    (social,) = load(f"olmes@mc_5shot:{olmes}")
    assert (social.base_task, social.format, social.num_fewshot) == ("socialiqa", "mc", 5)
    assert social.split == "test"
    with pytest.raises(UserError, match="no task matches; known: arc_easy_rc_0shot, arc_easy"):
        names("olmes/arc_challenge_rc_0shot")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(0, 0, 0), "{"], r"requests\.jsonl\.gz: line 2: expected a request"),
        ([line(0, 0, 0), {"doc_id": 0}], "line 2: expected a request"),
        ([line(0, 0, "A")], "line 1: .*label is 'A', not an integer"),
        ([line(0, 0, 0) | {"request_type": "generate_until"}], "'generate_until'"),
        ([line(0, 0, 0), line(0, 0, 0)], "line 2: document 0 has choice 0 twice"),
        ([line(0, 0, 0), line(0, 2, 0)], r"document 0: expected choices 0, 1, .*found \[0, 2\]"),
        ([line(0, 0, 0)], r"document 0: expected choices 0, 1, .*found \[0\]"),
        ([line(0, 0, 0), line(0, 1, 1)], r"expected one label .* found \[0, 1\]"),
        ([line(0, 0, 2), line(0, 1, 2)], r"expected one label among its 2 choices, found \[2\]"),
        ([], "expected requests, found none"),
    ],
)
def test_olmes_tells_what_is_wrong(tmp_path, lines, message):
    write_olmes(tmp_path, "arc_easy", "rc_0shot", lines)
    with pytest.raises(DataError, match=message):
        load(f"olmes:{tmp_path}")


def test_olmes_files_that_cannot_be_read(olmes):
    folder = olmes / "arc_easy" / "rc_0shot"
    whole = (folder / "requests.jsonl.gz").read_bytes()
    (folder / "requests.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"requests\.jsonl\.gz: cannot be read after line"):
        load(f"olmes:{olmes}")
    (folder / "requests.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"requests\.jsonl\.gz: cannot be read"):
        load(f"olmes:{olmes}")
    (folder / "config.json").write_text("[]")
    with pytest.raises(DataError, match=r"config\.json: expected JSON with a mapping"):
        load(f"olmes:{olmes}")
    (folder / "config.json").write_text('{"task_config": {"num_shots": 3}}')
    with pytest.raises(DataError, match="expected num_shots 0 as in the folder's name, found 3"):
        load(f"olmes:{olmes}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("blimps", r"unknown; expected one of generated, .*blimp.*did you mean 'blimp'\?"),
        ("", "unknown; expected one of"),
        ("blimp:/none/b.parquet", "no such file or folder /none/b.parquet; .* blimp:PATH"),
        ("olmes@rc_0shot:/none", "olmes@rc_0shot:PATH"),
        ("blimp@rc_0shot", "blimp has no regimes; drop @rc_0shot"),
        ("paper66@mc_5shot", "paper66 has no regimes; drop @mc_5shot"),
        ("lm_eval", "expected lm_eval/TASK or lm_eval@Nshot/TASK"),
        ("lm_eval@rc_5shot/arc_easy", "expected lm_eval/TASK or lm_eval@Nshot/TASK"),
        ("lm_eval/t:/none", "no such file or folder /none"),
        ("mmlu:/none/m.parquet", "no such file or folder /none/m.parquet; .* mmlu:PATH"),
        ("generated", "needs text that the models were not trained on"),
        ("generated:/x", "drop :/x"),
    ],
)
def test_a_wrong_spec_tells_what_to_do(spec, message):
    with pytest.raises(UserError, match=message):
        load(spec)


def test_specs_without_a_path_look_into_the_shared_folder(blimp, monkeypatch, tmp_path):
    (tmp_path / "tasks").mkdir()
    blimp.rename(tmp_path / "tasks" / "blimp.parquet")
    monkeypatch.setenv("NEUNEU_SHARED", str(tmp_path))
    assert [task.name for task in load("blimp/*island")] == ["blimp_wh_island"]


def test_one_yaml_file_adds_a_task(tmp_path, monkeypatch):
    """A new benchmark with examples, two choices and no regimes."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "parity.yaml").write_text(
        "title: Parity\ntable: parity.parquet\ncolumns: [set, split, id, number, odd]\n"
        "task_column: set\ndoc_id: id\nbase_task: parity_{{ set }}\ngroup: numbers\n"
        "num_choices: 2\ndoc_to_target: odd\ntest_split: test\nfewshot_split: dev\n"
        "num_fewshot: 1\nregimes:\n  '':\n    format: rc\n"
        "    doc_to_text: '{{ number }} is'\n    doc_to_choice: [even, odd]\n"
    )
    rows = [
        {"set": "small", "split": split, "id": 0, "number": number, "odd": number % 2}
        for split, number in (("dev", 3), ("test", 8))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parity.parquet")
    monkeypatch.setattr(declarations, "_FOLDER", tmp_path)
    monkeypatch.setattr(tasks_module, "_sources", tasks_module._sources.__wrapped__)
    (task,) = load(f"parity:{tmp_path / 'parity.parquet'}")
    assert (task.name, task.split, task.num_fewshot, task.chance) == (
        "parity_small",
        "test",
        1,
        0.5,
    )
    assert [(r.context, r.continuation, r.label) for r in task.requests] == [
        ("3 is odd\n\n8 is", " even", 0),
        ("3 is odd\n\n8 is", " odd", 0),
    ]


def test_a_task_may_be_named_once_only(blimp):
    with pytest.raises(UserError, match="'blimp_wh_island' is already selected by an earlier spec"):
        load(f"blimp/*island:{blimp}", f"blimp:{blimp}")


def choices_task(n_docs, *, name="t"):
    """Document d has 2 + d % 2 choices."""
    return Task(
        name=name,
        base_task=name,
        format="rc",
        split="",
        group="g",
        num_fewshot=0,
        chance=0.0,
        requests=tuple(
            Request(task=name, doc=doc, choice=i, context="", continuation=str(i), label=0)
            for doc in range(n_docs)
            for i in range(2 + doc % 2)
        ),
    )


def documents(task):
    return sorted({request.doc for request in task.requests})


@given(n=st.integers(1, 60), small=st.integers(1, 60), more=st.integers(0, 30), seed=st.integers())
def test_a_smaller_limit_takes_a_subset(n, small, more, seed):
    task = choices_task(n)
    kept = subsample(task, limit=small, seed=seed)
    larger = subsample(task, limit=small + more, seed=seed)
    assert kept.n_items == min(n, small)
    assert set(documents(kept)) <= set(documents(larger))
    assert kept.requests == tuple(r for r in task.requests if r.doc in set(documents(kept)))
    if kept.n_items < n:
        sizes = [2 + doc % 2 for doc in documents(kept)]
        assert kept.chance == pytest.approx(sum(1 / size for size in sizes) / len(sizes))


def test_the_choice_of_documents_depends_on_seed_and_name_alone(blimp):
    task = choices_task(50)
    # Fixed for good: another choice would make stores of earlier extractions incomparable.
    assert documents(subsample(task, limit=5, seed=0)) == [31, 39, 41, 44, 46]
    assert documents(subsample(task, limit=5, seed=1)) != [31, 39, 41, 44, 46]
    assert documents(subsample(choices_task(50, name="u"), limit=5, seed=0)) != [31, 39, 41, 44, 46]
    alone = load(f"blimp/*island:{blimp}", limit=2)
    assert alone == [task for task in load(f"blimp:{blimp}", limit=2) if task in alone]


def test_limit_must_be_positive(blimp):
    with pytest.raises(UserError, match="limit: expected at least 1"):
        load(f"blimp:{blimp}", limit=0)


def test_tasks_hash_sees_every_field():
    task = choices_task(2)
    other = replace(task.requests[0], continuation="x")
    measured = replace(task.requests[0], choice_text="x")
    variants = [
        [task],
        [task, task],
        [replace(task, group="h")],
        [replace(task, requests=task.requests[:-1])],
        [replace(task, requests=(other, *task.requests[1:]))],
        [replace(task, requests=(measured, *task.requests[1:]))],
    ]
    assert len({tasks_hash(tasks) for tasks in variants}) == len(variants)
    # Fixed for good, as a store is bound to it.
    assert tasks_hash([choices_task(2)]) == "6b2e183d80391710"


def test_task_hash_sees_what_is_asked_without_the_question():
    task = choices_task(2)
    alone = replace(task.requests[0], unconditional=("", "x"))
    asks = replace(task, requests=(alone, *task.requests[1:]))
    assert tasks_hash([asks]) == tasks_hash([task])
    assert len({task_hash(task), task_hash(asks), task_hash(replace(task, group="h"))}) == 3


def test_task_rows_fit_the_schema(olmes):
    rows = task_rows(load(f"olmes:{olmes}"))
    table = pa.Table.from_pylist(rows, schema=TASKS)
    assert table.select(["task", "metric", "n_items"]).to_pylist()[:3] == [
        {"task": "arc_easy_rc_0shot", "metric": metric, "n_items": 2}
        for metric in ("acc", "acc_norm", "acc_bytes")
    ]
    assert all(set(row) == set(TASKS.names) for row in rows)


@pytest.mark.shared
def test_real_blimp_has_67_tasks_of_1000_pairs(shared):
    tasks = load(f"blimp:{shared / 'tasks' / 'blimp.parquet'}")
    assert len(tasks) == 67
    assert {task.n_items for task in tasks} == {1000}
    assert {len(task.requests) for task in tasks} == {2000}


@pytest.mark.shared
def test_real_olmes_is_complete_and_has_the_names_of_the_trajectories(shared):
    import csv

    with (shared / "trajectories" / "tasks.csv").open() as file:
        known = {row["task"]: row for row in csv.DictReader(file)}
    tasks = {task.name: task for task in load(f"olmes@*:{shared / 'tasks' / 'olmes'}")}
    assert len(tasks) == 19
    assert sum(task.num_fewshot == 0 for task in tasks.values()) == 10
    for name, task in tasks.items():
        assert task.base_task == known[name]["base_task"]
        assert task.group == known[name]["group"]
        assert task.chance == pytest.approx(float(known[name]["chance"]), abs=1e-3)
        assert max(request.doc for request in task.requests) < 1_000_000
        counts: dict[int, int] = {}
        for request in task.requests:
            counts[request.doc] = counts.get(request.doc, 0) + 1
        assert all(0 <= request.label < counts[request.doc] for request in task.requests)
    assert tasks["arc_challenge_rc_0shot"].n_items == 299
    assert tasks["boolq_rc_0shot"].n_items == 3270
    assert len(tasks["hellaswag_rc_5shot"].requests) == 4000

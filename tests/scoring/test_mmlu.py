"""MMLU's layout and prompts, and the 66 tasks of the paper."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuneu.core.errors import DataError, UserError
from neuneu.scoring.tasks import load_tasks


def load(*specs, limit=None):
    return load_tasks(specs, limit=limit, seed=0, text=None)


def row(subject, split, doc, *, answer=1, choices=None):
    return {
        "subject": subject,
        "split": split,
        "doc_id": doc,
        "question": f"{split} question {doc}?",
        "choices": choices or [f"{split} {doc} {letter}" for letter in "wxyz"],
        "answer": answer,
    }


def rows():
    subjects = ("us_foreign_policy", "anatomy")
    dev = [row(subject, "dev", doc) for subject in subjects for doc in (4, 3, 5, 2, 1, 0)]
    test = [row(subject, "test", doc, answer=doc) for subject in subjects for doc in (2, 0)]
    return [*dev, *test, row("anatomy", "validation", 0)]


def write(path, table_rows):
    pq.write_table(pa.Table.from_pylist(table_rows), path)
    return path


@pytest.fixture
def mmlu(tmp_path):
    return write(tmp_path / "mmlu.parquet", rows())


def test_the_cloze_prompt_is_that_of_olmes(mmlu):
    (task,) = load(f"mmlu/us_foreign_policy:{mmlu}")
    assert (task.name, task.base_task) == (
        "mmlu_us_foreign_policy_rc_5shot",
        "mmlu_us_foreign_policy",
    )
    assert (task.format, task.split, task.group) == ("rc", "test", "mmlu")
    assert (task.num_fewshot, task.chance, task.n_items) == (5, 0.25, 2)
    beginning = (
        "The following are multiple choice questions (with answers) about us foreign policy."
    )
    shots = [f"Question: dev question {i}?\nAnswer: dev {i} x" for i in range(5)]
    context = "\n\n".join([beginning, *shots, "Question: test question 0?\nAnswer:"])
    assert [(r.doc, r.choice, r.label, r.continuation) for r in task.requests] == [
        (doc, choice, doc, f" test {doc} {letter}")
        for doc in (0, 2)
        for choice, letter in enumerate("wxyz")
    ]
    assert {request.context for request in task.requests[:4]} == {context}


def test_the_lettered_prompt_is_that_of_olmes(mmlu):
    (task,) = load(f"mmlu@mc_5shot/anatomy:{mmlu}")
    assert (task.name, task.format) == ("mmlu_anatomy_mc_5shot", "mc")
    assert task.requests[0].context.endswith(
        "Question: dev question 4?\n A. dev 4 w\n B. dev 4 x\n C. dev 4 y\n D. dev 4 z\nAnswer: B"
        "\n\n"
        "Question: test question 0?\n A. test 0 w\n B. test 0 x\n C. test 0 y\n D. test 0 z\n"
        "Answer:"
    )
    assert [request.continuation for request in task.requests[:4]] == [" A", " B", " C", " D"]


def test_specs_choose_subjects_and_regimes(mmlu):
    def names(spec):
        return [task.name for task in load(f"{spec}:{mmlu}")]

    cloze = ["mmlu_anatomy_rc_5shot", "mmlu_us_foreign_policy_rc_5shot"]
    assert names("mmlu") == cloze
    assert names("mmlu/*policy") == cloze[1:]
    assert names("mmlu@*/anatomy") == ["mmlu_anatomy_rc_5shot", "mmlu_anatomy_mc_5shot"]
    with pytest.raises(UserError, match="no task matches; known: rc_5shot, mc_5shot of the subj"):
        names("mmlu@rc_0shot")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row("anatomy", "test", 9, answer=4), "test document 9: expected an answer from 0 to 3"),
        (row("anatomy", "test", 9, choices=["a", "b"]), r"expected 4 choices, found \['a', 'b'\]"),
        (row("anatomy", "test", 9, choices=["a", "b", "c", None]), "expected 4 choices"),
        (row("anatomy", "test", 9) | {"question": None}, "'question' has missing values"),
        (row("anatomy", "test", 2), "anatomy, test document 2: appears twice"),
        (row("virology", "test", 0), "subject virology: expected .* found 0 and 1"),
        (row("virology", "dev", 0), "subject virology: expected .* found 1 and 0"),
    ],
)
def test_a_broken_table_tells_what_is_wrong(tmp_path, broken, message):
    path = write(tmp_path / "mmlu.parquet", [*rows(), broken])
    with pytest.raises(DataError, match=message):
        load(f"mmlu:{path}")


def test_a_file_that_is_no_such_table(tmp_path, mmlu):
    pq.write_table(pq.read_table(mmlu).drop_columns(["answer"]), tmp_path / "less.parquet")
    with pytest.raises(DataError, match=r"missing columns \['answer'\]"):
        load(f"mmlu:{tmp_path / 'less.parquet'}")
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="expected parquet"):
        load(f"mmlu:{tmp_path / 'no.parquet'}")


def test_the_paper_s_tasks_must_all_be_there(tmp_path, mmlu):
    with pytest.raises(DataError, match=r"paper66 .*olmes: .* missing \['arc_challenge_rc_5shot"):
        load(f"paper66:{tmp_path}")


@pytest.mark.shared
def test_real_mmlu_has_57_subjects_and_14042_documents(shared):
    tasks = load(f"mmlu:{shared / 'tasks' / 'mmlu.parquet'}")
    assert len(tasks) == 57
    assert sum(task.n_items for task in tasks) == 14_042
    assert all(len(task.requests) == 4 * task.n_items for task in tasks)


@pytest.mark.shared
def test_the_paper_has_66_tasks(shared):
    tasks = load(f"paper66:{shared / 'tasks'}", limit=3)
    assert len(tasks) == 66
    assert sum(task.group == "mmlu" for task in tasks) == 57
    assert {(task.format, task.num_fewshot) for task in tasks} == {("rc", 5)}
    assert len({task.base_task for task in tasks}) == 66
    (one,) = load(f"paper66/mmlu_virology_*:{shared / 'tasks'}", limit=3)
    assert one in tasks


@pytest.mark.shared
def test_the_paper_s_held_out_tasks_are_among_the_66(shared):
    import yaml

    config = Path(__file__).parents[2] / "jobs" / "configs" / "train-paper.yaml"
    held_out = yaml.safe_load(config.read_text())["held_out_tasks"]
    tasks = load(f"paper66:{shared / 'tasks'}", limit=1)
    assert set(held_out) <= {task.base_task for task in tasks}
    assert len(held_out) == 13


@pytest.mark.shared
def test_olmes_requests_have_the_few_shot_layout_that_mmlu_takes_from_them(shared):
    (arc,) = load(f"olmes/arc_easy_rc_5shot:{shared / 'tasks' / 'olmes'}", limit=20)
    for request in arc.requests:
        *shots, asked = request.context.split("\n\nQuestion: ")
        assert len(shots) == 5
        assert all("\nAnswer: " in shot for shot in shots)
        assert asked.endswith("\nAnswer:")
        assert request.continuation.startswith(" ")

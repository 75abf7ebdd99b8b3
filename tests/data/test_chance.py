"""Chance levels of well-known benchmarks, however suites call them."""

from pathlib import Path

import pyarrow.csv as pa_csv
import pytest

from neuneu.data.chance import known_chance
from neuneu.data.load import load_dataset

ROW = {"run": "a", "tokens": 1e9, "value": 0.3}


@pytest.mark.parametrize(
    ("task", "chance"),
    [
        ("hellaswag", 0.25),
        ("HellaSwag", 0.25),
        ("ARC-Challenge", 0.25),
        ("arc_easy:mc::olmes", 0.25),
        ("leaderboard|arc:challenge|25|0", 0.25),
        ("lighteval|mmlu:anatomy|5", 0.25),
        ("MMLU (5-shot)", 0.25),
        ("mmlu_abstract_algebra_test_mc_5shot", 0.25),
        ("hendrycksTest-abstract_algebra", 0.25),
        ("eval/downstream/openbook_qa_len_norm", 0.25),
        ("mmlu_pro", 0.1),
        ("mmlu_pro_biology", 0.1),
        ("boolq", 0.5),
        ("super_glue:copa", 0.5),
        ("winogrande_5shot", 0.5),
        ("blimp_anaphor_gender_agreement", 0.5),
        ("CommonsenseQA", 0.2),
        ("csqa", 0.2),
        ("social_iqa", 1 / 3),
        ("Social IQa", 1 / 3),
        ("siqa", 1 / 3),
        ("lambada_openai", 0.0),
        ("triviaqa", 0.0),
    ],
)
def test_a_known_benchmark_has_its_chance(task: str, chance: float) -> None:
    for metric in ("acc", "acc_norm", "accuracy"):
        assert known_chance(task, metric) == pytest.approx(chance)


@pytest.mark.parametrize(
    "task",
    [
        "agieval", "arc_agi", "boolq_seq2seq", "bbh", "generated_word_order", "hellaswagish",
        "mmlu_flan_cot_zeroshot", "mmlu_prox_fr", "my_mmlu", "t0", "truthfulqa_mc1", "", "|5|",
    ],
)  # fmt: skip
def test_any_other_name_stays_unknown(task: str) -> None:
    assert known_chance(task, "acc") is None


def test_guessing_has_no_known_level_in_a_metric_of_written_answers() -> None:
    assert known_chance("mmlu", "exact_match") is None
    assert known_chance("gsm8k", "exact_match:strict-match") == 0.0
    assert known_chance("hellaswag", "mean_probability") is None


def test_a_task_table_wins_and_what_is_assumed_is_noted() -> None:
    tasks = ("hellaswag", "piqa", "mine")
    rows = [ROW | {"task": task, "value": 0.3} for task in tasks]
    unsaid = ("format", "split", "group", "n_items", "higher_is_better")
    blank = dict.fromkeys(unsaid) | {"metric": "acc", "chance": None}
    table = [
        blank | {"task": "hellaswag", "base_task": "hellaswag", "chance": 0.3},
        blank | {"task": "piqa", "base_task": "piqa"},
    ]
    found = load_dataset(rows, tasks=table)
    assert {t.task: t.chance for t in found.trajectories} == {
        "hellaswag": 0.3, "piqa": 0.5, "mine": None,
    }  # fmt: skip
    assert "chance level of a known task assumed, such as 'piqa'" in found.notes
    assert "chance levels of 2 known tasks assumed, such as 'hellaswag'" in load_dataset(rows).notes
    assert not any("chance" in note for note in load_dataset(rows[2:]).notes)


@pytest.mark.shared
def test_the_table_agrees_with_task_tables(shared: Path) -> None:
    compared = 0
    for row in pa_csv.read_csv(shared / "trajectories" / "tasks.csv").to_pylist():
        for name in (row["task"], row["base_task"]):
            chance = known_chance(name, row["metric"])
            if chance is not None:
                compared += 1
                assert chance == pytest.approx(row["chance"], abs=1e-3), row
    assert compared > 200

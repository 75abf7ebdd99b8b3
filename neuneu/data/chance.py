"""Chance levels of well-known benchmarks, for tables without a task table that gives them.

The chance level is what a uniform guess scores: 1 / choices, 0 where an answer is written freely.
A name that is not certain stays unknown, since a wrong level is worse than none. For tasks that
neuneu scores itself it is counted from the documents instead (`neuneu.scoring`).
"""

import re
from collections.abc import Mapping
from typing import Final

_LEVELS: Final[Mapping[float, str]] = {
    1 / 2: """
        boolq copa crows_pairs blimp pawsx piqa qnli rte sst2 storycloze wic winograd winogrande
        winogrande_debiased winogrande_xl wsc wsc273 xcopa xstorycloze xwinograd
        """,
    1 / 3: "anli cb mnli pubmedqa siqa social_i_qa social_iqa xnli",
    1 / 4: """
        ai2_arc arc arc_c arc_challenge arc_e arc_easy belebele ceval cmmlu cosmosqa gpqa
        gpqa_diamond gpqa_extended gpqa_main hellaswag hendryckstest kmmlu logiqa logiqa2 medmcqa
        medqa_4options mmlu mmlu_cf mmlu_redux obqa openbookqa race race_high race_middle sciq swag
        """,
    1 / 5: "aqua_rat commonsense_qa csqa mathqa",
    1 / 8: "qasc",
    1 / 10: "mmlu_pro",
    0.0: """
        coqa drop gsm8k humaneval jeopardy lambada lambada_openai lambada_standard mbpp
        minerva_math natural_questions naturalqs nq nq_open popqa squad squadv2 triviaqa webqs
        """,
}  # fmt: skip

_KNOWN: Final = {
    name.replace("_", ""): level for level, names in _LEVELS.items() for name in names.split()
}
"""By name without separators, which every suite sets differently."""

_WITH_SUBSETS: Final = (
    "anli", "belebele", "blimp", "ceval", "cmmlu", "crows_pairs", "gsm8k", "hendryckstest", "kmmlu",
    "lambada", "minerva_math", "mmlu_pro", "mmlu_redux", "mmlu", "xcopa", "xnli", "xstorycloze",
    "xwinograd",
)  # fmt: skip
"""Benchmarks whose name may be followed by a subject or a language; longer names first."""

_OTHER: Final = frozenset({"cot", "gen", "generative", "plus", "prox"})
"""What makes another benchmark, or another way of answering, of a subset's name."""

_BEFORE: Final = re.compile(
    r"^(?:(?:lm_eval|harness|olmes|oe_eval|downstream|lighteval|leaderboard|helm|original|custom"
    r"|extended|community|super_?glue|glue|eval)_)+"
)
_AFTER: Final = re.compile(
    r"(?:_(?:rc|mc|cf|mcf|val|validation|test|dev|train|olmes|full|len_norm|acc|acc_norm|accuracy"
    r"|(?:\d+|zero|few)_?shots?))+$"
)
"""Suites and harnesses before the name of a benchmark; formats, splits and shots after it."""

_ACCURACY: Final = re.compile(r"acc|pct_stereotype$|primary_score$|score$|len_norm$")
_WRITTEN: Final = re.compile(r"em$|exact_match|f1|pass@")


def known_chance(task: str, metric: str) -> float | None:
    """The chance level of a well-known benchmark; None where the name or the metric is not known.

    Args:
        task: as any suite calls it: `ARC-Challenge`, `mmlu_anatomy`, `leaderboard|arc:easy|25`.
        metric: accuracies of every kind have one chance level.
    """
    level = _level(_plain(task))
    kind = metric.lower()
    fits = _ACCURACY.match(kind) or (level == 0.0 and _WRITTEN.match(kind))
    return level if fits else None


def _plain(task: str) -> str:
    """Lower case with underscores, without suite, format, split and shots."""
    parts = [part for part in task.lower().split("|") if not part.strip().isdigit()]
    last = "_".join(parts).rsplit("/", 1)[-1]
    name = re.sub(r"[^a-z0-9]+", "_", last).strip("_")
    return _AFTER.sub("", _BEFORE.sub("", name))


def _level(name: str) -> float | None:
    found = _KNOWN.get(name.replace("_", ""))
    if found is not None:
        return found
    for benchmark in _WITH_SUBSETS:
        if name.startswith(f"{benchmark}_"):
            is_other = _OTHER.intersection(name.removeprefix(benchmark).split("_"))
            return None if is_other else _KNOWN[benchmark.replace("_", "")]
    return None

"""Leave one family out: every family forecast by what was trained on the others.

    .venv/bin/python benchmarks/families/run.py ../shared --forecasters ours=FOLDER today=FOLDER

FOLDER/FAMILY is a forecaster that was trained without FAMILY; a FOLDER that is a forecaster itself
answers for the families that it has not seen. Answers are kept in `--work` by family, case and
forecaster, so an interrupted run resumes and a further forecaster costs only its own answers. So
are those of the simple rules: delete the folder after changing one.
`benchmarks/page.py families` writes the page.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from families.answers import Answers, Kept
from families.cases import CASES, MAX_TRAJECTORIES, RANKED, Asked, Case, References, ask
from families.data import FAMILIES, load_families
from families.entrants import FINISHED, PEERS, Entrant, Trained, rules
from families.goals import LARGE, goals, large_entry, names_of
from families.ranking import ranking_entry
from families.scores import Scored, family_entry, finished_entry, pooled_entry, score
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.fingerprints import data_digest
from neuneu.data.trajectories import Trajectory

SHOWN: Final = ("before", "one-recipe")
"""Cases with numbers on the largest runs alone."""


class Benchmark:
    """The families, the forecasters, and the folder of answers."""

    def __init__(
        self,
        families: Mapping[str, Sequence[Trajectory]],
        trained: Sequence[Trained],
        work: Path,
        *,
        cases: Sequence[Case] = CASES,
        limit: int = MAX_TRAJECTORIES,
        seed: int = 0,
    ) -> None:
        self.families, self.cases, self.work = families, cases, work
        self.limit, self.seed = limit, seed
        self.digests = {name: data_digest(ts) for name, ts in families.items()}
        self.entrants: dict[str, list[Entrant]] = {
            family: [e for t in trained for e in t.entrants(family, trajectories)]
            for family, trajectories in families.items()
        }

    def scored(self, family: str) -> dict[str, Scored]:
        """Return the scores of all forecasters by case, without cases that no run fits."""
        chosen = [c for c in self.cases if c.families is None or family in c.families]
        asked = [
            ask(family, self.families[family], case, limit=self.limit, seed=self.seed)
            for case in chosen
        ]
        together: dict[References | None, list[Asked]] = {}
        for questions in asked:
            if len(questions):
                together.setdefault(questions.case.references, []).append(questions)
        found: dict[str, Scored] = {}
        for several in together.values():
            found |= self._scored(family, several)
        return found

    def _scored(self, family: str, several: Sequence[Asked]) -> dict[str, Scored]:
        """Return the scores in cases that share their references."""
        kept = Kept(folder=self.work, mark=f"{self.digests[family]}-{self.limit}-{self.seed}")
        trained = self.entrants[family]
        entrants = {
            asked.case.name: {
                e.name: e for e in [*_rules(asked.case), *trained] if e.enters(asked.case)
            }
            for asked in several
        }
        everyone = {name: e for by_name in entrants.values() for name, e in by_name.items()}
        answers: dict[str, dict[str, Answers]] = {asked.case.name: {} for asked in several}
        titles = ", ".join(answers)
        total = sum(len(asked) * len(entrants[asked.case.name]) for asked in several)
        with stage(f"{family}, {titles}", total) as bar:
            for name, entrant in everyone.items():
                mine = [asked for asked in several if name in entrants[asked.case.name]]
                for asked, given in zip(mine, kept.answers(entrant, mine, bar), strict=True):
                    answers[asked.case.name][name] = given
        names = [e.name for e in trained]
        return {asked.case.name: score(asked, answers[asked.case.name], names) for asked in several}

    def record(self) -> dict[str, Any]:
        """Forecast and score everything."""
        scored = {family: self.scored(family) for family in self.families}
        cases: dict[str, Any] = {}
        ranking: dict[str, Any] = {}
        large: dict[str, Any] = {case: {} for case in SHOWN}
        finished: dict[str, Any] = {}
        names: dict[str, None] = {}
        for case in self.cases:
            found = [by_case[case.name] for by_case in scored.values() if case.name in by_case]
            names |= dict.fromkeys(names_of(found))
            cases[case.name] = {
                "title": case.title,
                "families": {s.asked.family: family_entry(s) for s in found},
                "pooled": pooled_entry(found),
            }
            if beside := finished_entry(found):
                finished[case.name] = beside
            if case.name in RANKED:
                ranking[case.name] = ranking_entry(found)
            if case.name in SHOWN:
                large[case.name] = {
                    sizes.title: entry
                    for s in found
                    for sizes in LARGE
                    if sizes.family == s.asked.family
                    and (entry := large_entry(s, sizes)) is not None
                }
        result = {
            "trained": list(names),
            "families": {name: self.counts(name) for name in self.families},
            "limit": self.limit, "seed": self.seed,
            "cases": cases, "ranking": ranking, "large": large, "finished": finished,
        }  # fmt: skip
        plain = [name for name in names if not name.endswith((FINISHED, PEERS))]
        return result | {"goals": {name: goals(result, name) for name in plain}}

    def counts(self, family: str) -> dict[str, Any]:
        """Return how much data a family has, and which forecasters answer for it."""
        trajectories = self.families[family]
        return {
            "digest": self.digests[family],
            "runs": len({t.run_group for t in trajectories}),
            "trajectories": len(trajectories),
            "trained": {e.name: e.mark for e in self.entrants[family]},
        }


def _rules(case: Case) -> list[Entrant]:
    return rules(references=case.references is not None, observed=case.observed)


def show(record: Mapping[str, Any]) -> None:
    """Print the MAE of all forecasters by case, in points, and the ratio to the best rule."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    for case in record["cases"].values():
        table = Table(title=case["title"])
        for column in ("forecaster", *case["families"], "mean"):
            table.add_column(column, justify="right")
        for name, pooled in case["pooled"].items():
            cells = []
            for entry in case["families"].values():
                mine = entry["forecasters"].get(name)
                cells.append("-" if mine is None else _cell(mine["mae"], mine.get("ratio")))
            ratio = pooled.get("ratio", {}).get("mean")
            table.add_row(name, *cells, _cell(pooled["mae"]["mean"], ratio))
        console.print(table)
    for name, rows in record["goals"].items():
        table = Table(title=name)
        for column in ("goal", "limit", "measured", "met"):
            table.add_column(column)
        for row in rows:
            scale = 1.0 if row["unit"] == "ratio" else 100.0
            value = "-" if row["value"] is None else f"{scale * row['value']:.2f}"
            table.add_row(row["what"], row["limit"], value, str(row["met"]))
        console.print(table)


def _cell(mae: Mapping[str, float], ratio: Mapping[str, float] | None) -> str:
    text = f"{100 * mae['value']:.2f}"
    return text if ratio is None or ratio["value"] is None else f"{text} ({ratio['value']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with trajectories/ and families/")
    parser.add_argument(
        "--forecasters", nargs="*", default=[], metavar="NAME=FOLDER",
        help="trained forecasters; FOLDER has one for each held-out family",
    )  # fmt: skip
    parser.add_argument("--families", default=",".join(FAMILIES), help="of these, by commas")
    parser.add_argument("--cases", default=",".join(c.name for c in CASES), help="of these")
    parser.add_argument(
        "--trajectories", type=int, default=MAX_TRAJECTORIES,
        help="about how many of a family are forecast in a case",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the sample of trajectories")
    parser.add_argument("--work", type=Path, default=Path("runs/families"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/families.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        trained = [Trained.parse(text) for text in arguments.forecasters]
        with stage("reading", 1) as bar:
            families = load_families(arguments.shared, arguments.families.split(","))
            bar.advance()
        benchmark = Benchmark(
            families, trained, arguments.work,
            cases=[c for c in CASES if c.name in arguments.cases.split(",")],
            limit=arguments.trajectories, seed=arguments.seed,
        )  # fmt: skip
        record = benchmark.record()
    except UserError as error:
        raise SystemExit(str(error)) from error
    record |= {
        "seconds": round(time.monotonic() - started), "cpus": os.cpu_count(),
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
    show(record)
    write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

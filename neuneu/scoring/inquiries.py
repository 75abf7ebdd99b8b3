"""Questions about an extraction that score nothing: what it would cost, how far it is."""

from collections import Counter
from dataclasses import dataclass

from neuneu.core.progress import stage
from neuneu.data.store.attempts import ATTEMPTS, AttemptLedger
from neuneu.data.store.store import META, Store
from neuneu.scoring.checkpoints.grouping import group
from neuneu.scoring.checkpoints.sources import list_checkpoints
from neuneu.scoring.corpus import load_corpus
from neuneu.scoring.cost import HardwareProfile
from neuneu.scoring.pipeline import ExtractConfig, is_due
from neuneu.scoring.plan import Plan, make_plan
from neuneu.scoring.tasks import load_tasks


@dataclass(frozen=True, kw_only=True)
class ExtractStatus:
    """How far an extraction is: `listed` = `done` + `quarantined` + `left`.

    `running` of those left are in a worker's hands, or were when it was killed. `reasons` counts
    what the quarantined ones failed on.
    """

    store: str
    listed: int
    done: int
    quarantined: int
    left: int
    running: int
    reasons: dict[str, int]


def extraction_status(config: ExtractConfig) -> ExtractStatus:
    """Compares what the config lists with what its store has.

    Raises:
        UserError: checkpoints or a store that cannot be read.
    """
    store = Store(config.store)
    refs = list_checkpoints(config.checkpoints)
    ledger = AttemptLedger(store.folder / ATTEMPTS, timeout_s=config.checkpoint_timeout_s)
    bound = store.folder.exists(META)
    wanted = {ref.key for ref in refs}
    rows = store.checkpoints().to_pylist() if bound else []
    rows = [row for row in rows if (row["suite"], row["run"], row["step"]) in wanted]
    failed = [row["error"] for row in rows if row["status"] != "done"]
    return ExtractStatus(
        store=config.store,
        listed=len(refs),
        done=len(rows) - len(failed),
        quarantined=len(failed),
        left=len(refs) - len(rows),
        running=sum((item.suite, item.run, item.step) in wanted for item in ledger.in_flight()),
        reasons=dict(Counter(failed).most_common()),
    )


def plan_extraction(config: ExtractConfig, profile: HardwareProfile | None) -> Plan:
    """Adds up what the config would score, without starting anything.

    Raises:
        UserError: an input that cannot be read.
    """
    store = Store(config.store)
    refs = list_checkpoints(config.checkpoints)
    tasks = load_tasks(config.tasks, limit=config.limit, seed=config.seed, text=config.task_text)
    corpus = load_corpus(config.corpus, max_words=config.corpus_words)
    status = store.status() if store.folder.exists(META) else {}
    todo = [ref for ref in refs if is_due(status.get(ref.key), config)]
    with stage("read configs", len(todo)) as bar:
        groups = group(todo, advance=bar.advance)
    return make_plan(
        refs,
        groups,
        tasks=tasks,
        corpus=corpus,
        engine=config.engine,
        status=Counter(status[ref.key] for ref in refs if ref.key in status),
        profile=profile,
    )

"""What an extraction scores: tasks and validation texts, each a part of the store."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from neuneu.core.errors import StoreError, UserError
from neuneu.data.store.parts import Part, PartRecord, Slot
from neuneu.data.store.store import Store
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.corpus import Corpus, load_corpus
from neuneu.scoring.multiple_choice import Task
from neuneu.scoring.tasks import load_tasks, task_hash, task_rows, tasks_hash


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Tasks and texts to score; names are unique among both."""

    tasks: Sequence[Task]
    corpora: Sequence[Corpus]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Their parts of a store: tasks, then texts."""
        tasks = [Part("task", t.name, t.num_fewshot, task_hash(t)) for t in self.tasks]
        return (*tasks, *(Part("corpus", text.name, hash=text.hash) for text in self.corpora))

    @property
    def task_parts(self) -> tuple[Part, ...]:
        """The parts of the tasks."""
        return self.parts[: len(self.tasks)]

    @property
    def corpus_parts(self) -> tuple[Part, ...]:
        """The parts of the texts."""
        return self.parts[len(self.tasks) :]

    @property
    def meanings(self) -> dict[Slot, str]:
        """The hash of the content of each name."""
        return {part.slot: part.hash for part in self.parts}

    def records(self) -> list[PartRecord]:
        """What the store is told about the names."""
        tasks = zip(self.task_parts, self.tasks, strict=True)
        records = [PartRecord(part=part, tasks=tuple(task_rows([task]))) for part, task in tasks]
        return [*records, *(PartRecord(part=part) for part in self.corpus_parts)]

    def only(self, parts: Collection[Part]) -> "Wanted":
        """Keep the tasks and texts of these parts."""
        tasks = zip(self.task_parts, self.tasks, strict=True)
        corpora = zip(self.corpus_parts, self.corpora, strict=True)
        return Wanted(
            tasks=[task for part, task in tasks if part in parts],
            corpora=[text for part, text in corpora if part in parts],
        )


def load_wanted(config: ExtractConfig) -> Wanted:
    """Load the tasks and texts of a config.

    Raises:
        UserError: They cannot be read, or a text has the name of a task.
    """
    tasks = load_tasks(config.tasks, limit=config.limit, seed=config.seed, text=config.task_text)
    if isinstance(config.corpus, Mapping):
        if not config.corpus:
            raise UserError("corpus: expected a text or several by name, found none.")
        corpora = [
            replace(load_corpus(path, max_words=config.corpus_words), name=name)
            for name, path in config.corpus.items()
        ]
    else:
        corpora = [load_corpus(config.corpus, max_words=config.corpus_words)]
    for name in {text.name for text in corpora} & {task.name for task in tasks}:
        raise UserError(
            f"corpus: the text {name!r} has the name of a task, and their losses would have one "
            "name; name it in the config: corpus: {another_name: PATH}."
        )
    return Wanted(tasks=tasks, corpora=corpora)


def old_meanings(store: Store, wanted: Wanted) -> dict[Slot, str]:
    """Return the hashes of those wanted tasks that a store of version 1, or one upgraded, has.

    Such a store knows its tasks by name and all of them together by content, so that they can only
    be recognised together.

    Raises:
        StoreError: A wanted task has the name of such a task, but may be another.
    """
    meta = store.meta()
    old = meta.get("version_1") or meta["fingerprint"]
    names = dict.fromkeys(store.old_tasks().column("task").to_pylist())
    known = {name for kind, name, _ in store.records() if kind == "task"}
    unknown = [name for name in names if name not in known]
    by_name = {task.name: task for task in wanted.tasks}
    asked = [name for name in unknown if name in by_name]
    if not asked:
        return {}
    complete = len(asked) == len(names)
    if complete and tasks_hash([by_name[name] for name in names]) == old.get("tasks_hash"):
        tasks = zip(wanted.task_parts, wanted.tasks, strict=True)
        return {part.slot: part.hash for part, task in tasks if task.name in asked}
    raise StoreError(
        f"store {store.folder} has results of version 1 of {len(names)} tasks, such as "
        f"{asked[0]!r}, whose content is only known of all together, and this run asks for "
        f"{'other content' if complete else f'{len(asked)} of them'}. Ask for all of them with the "
        "settings that they were scored with (once is enough), or write to another store."
    )

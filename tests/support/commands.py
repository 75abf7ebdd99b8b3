"""Check command lines on pages without running them.

Ours (`neuneu`, the jobs, scripts of this repository, make) are parsed by their actual parsers.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from documents import ROOT
from generator.configs import JOBS

from neuneu.cli.app import app
from neuneu.core.config import load_config

FOREIGN = {
    "docker": "needs a container engine",
    "helm": "needs a Kubernetes cluster",
    "kind": "needs a Kubernetes cluster",
    "kubectl": "needs a Kubernetes cluster",
    "ray": "needs a running Ray cluster",
    "ssh": "needs another machine",
}
"""Other programs, and why their commands are not checked here."""

SHELL = {
    "base64", "cat", "cd", "chmod", "cp", "cut", "echo", "export", "git", "grep", "ls", "mkdir",
    "sort", "source", "uniq",
}  # fmt: skip
"""Shell commands that need no check."""

_SEPARATORS = {"|", "||", "&&", "&", ";", ">", ">>"}


def check_line(line: str) -> None:
    """Check a line: our programs have to accept it, other programs have to be known.

    Raises:
        ValueError: the line is wrong.
    """
    for command in commands_of(line):
        _check(command)


def logical_lines(text: str) -> list[str]:
    """Return the lines of a script without comments; continued lines are joined."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def commands_of(line: str) -> list[list[str]]:
    """Return the words of each simple command of a line, without redirections and variables."""
    flat = re.sub(r"\$\((.*)\)", r" ; \1", line)
    lexer = shlex.shlex(flat, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    target = False
    for word in lexer:
        if word in _SEPARATORS:
            target = word in {">", ">>"}
            found.append([])
        elif not target and (found[-1] or not re.match(r"\w+=", word)):
            found[-1].append(word)
    return [words for words in found if words]


def job_words(words: Sequence[str]) -> list[str]:
    """Return the words of `python jobs/extract.py ...` as they would follow `neuneu`."""
    return [Path(words[1]).stem, *words[2:]]


def _check(command: list[str]) -> None:
    program = command[0].removeprefix(".venv/bin/")
    if program == "ray" and "--" in command:
        _check(command[command.index("--") + 1 :])
    elif program in CHECKS:
        CHECKS[program](command[1:])
    elif program not in FOREIGN and program not in SHELL:
        raise ValueError(f"{program}: an unknown program; see tests/support/commands.py")


def neuneu(words: Sequence[str]) -> None:
    """Parse the words after `neuneu` as the command line does, without running the command.

    Raises:
        ValueError: invalid words or settings.
    """
    node, rest = typer.main.get_command(app), list(words)
    while rest and hasattr(node, "commands"):
        if rest[0].startswith("-"):
            rest = rest[_length(node, rest[0]) :]
            continue
        if rest[0] not in node.commands:
            raise ValueError(f"neuneu {' '.join(words)}: no command {rest[0]!r}")
        node = node.commands[rest.pop(0)]
    if "--help" in words:
        return
    try:
        given = node.make_context(node.name, rest).params
        if node.name in JOBS and (given["config"] or given["set_"]):
            load_config(JOBS[node.name], _example(node.name, given["config"]), given["set_"] or ())
    except Exception as error:
        raise ValueError(f"neuneu {' '.join(words)}: {error}") from error


def _length(node: Any, option: str) -> int:
    """Return how many words an option before the command's name takes."""
    for parameter in node.params:
        if option in parameter.opts:
            return 1 if parameter.is_flag else 2
    raise ValueError(f"neuneu {option}: no such option before a command")


def _example(job: str, config: Path | None) -> Path:
    """Return a config of this repository; the example, if it is none or a user's."""
    return ROOT / (config if config and "jobs" in config.parts else f"jobs/configs/{job}.yaml")


def _make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if unknown := set(words) - set(targets):
        raise ValueError(f"make {' '.join(unknown)}: no such target")


def _python(words: list[str]) -> None:
    if words[0] == "-m":
        if words[1:3] == ["pip", "install"]:
            _pip(words[2:])
        elif words[1] not in {"build", "venv"}:
            raise ValueError(f"python -m {words[1]}: unknown module; see tests/support/")
        return
    script = ROOT / words[0]
    if not script.is_file():
        raise ValueError(f"{words[0]}: no such script")
    if script.parent.name == "jobs":
        neuneu(job_words(["python", *words]))
        return
    source = script.read_text(encoding="utf-8")
    for option in (word.partition("=")[0] for word in words[1:] if word.startswith("--")):
        if f'"{option}"' not in source:
            raise ValueError(f"{words[0]}: no option {option}")


def _pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in words[1:]:
        asked = re.findall(r"neuneu[^\[]*\[([\w,-]+)\]", name)
        unknown = {e for part in asked for e in part.split(",")} - {
            *extras["optional-dependencies"]
        }
        if unknown:
            raise ValueError(f"pip install {name}: no extra {sorted(unknown)}")


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": _make, "neuneu": neuneu, "pip": _pip, "python": _python, "pytest": lambda _: None,
}  # fmt: skip

"""Step `pytest`: the tests that need a GPU; in a dry run they are only collected."""

import subprocess
import sys
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from gpu.report import Context, Row

_ROOT: Final = Path(__file__).parents[2]
_MARK: Final = "mark.gpu"
_SESSION_S: Final = 110
"""Limit for `pytest` in seconds, below that of the step so that results are still written."""


def run_tests(context: Context) -> None:
    """Run `pytest -m gpu` on the files with such tests; others may fail to import here."""
    tests = sorted((_ROOT / "tests").rglob("test_*.py"))
    files = [path for path in tests if _MARK in path.read_text(encoding="utf-8")]
    if not files:
        context.report.add(Row(what="pytest -m gpu", note="no test is marked so"))
        return
    results = context.work / "pytest.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
               f"--junitxml={results}", "--tb=short", f"--session-timeout={_SESSION_S}",
               *(["--collect-only"] if context.dry_run else []),
               *(str(path.relative_to(_ROOT)) for path in files)]  # fmt: skip
    code = subprocess.run(command, check=False, cwd=_ROOT).returncode
    if context.dry_run:
        context.report.add(Row(what="pytest -m gpu", note=f"{len(files)} files collected"))
        if code not in (0, 5):
            context.report.fail(f"pytest ends with {code} while collecting; see the log.")
        return
    if not results.exists():
        context.report.fail(f"pytest ends with {code} and without results; see the log.")
        return
    suite = ElementTree.parse(results).getroot()
    cases = list(suite.iter("testcase"))
    by_kind = {kind: [case for case in cases if case.find(kind) is not None]
               for kind in ("failure", "error", "skipped")}  # fmt: skip
    bad = by_kind["failure"] + by_kind["error"]
    passed = len(cases) - len(bad) - len(by_kind["skipped"])
    context.report.add(
        Row(what="pytest -m gpu", seconds=sum(float(case.get("time", 0)) for case in cases),
            note=f"{passed} passed, {len(bad)} failed, {len(by_kind['skipped'])} skipped")
    )  # fmt: skip
    for case in bad:
        reason = next(part for part in case if part.tag in ("failure", "error"))
        context.report.fail(f"{case.get('name')}: {(reason.get('message') or '').strip()[:200]}")

"""Writes docs/results/extraction.md from the record of benchmarks/extraction.py.

.venv/bin/python benchmarks/extraction_page.py docs/results/extraction.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from extraction import DTYPES, WINDOW

from neuneu.core.files import write_text_atomic


def write_page(record: dict[str, Any], page: Path) -> None:
    """The record as docs/results/extraction.md; nothing is typed by hand."""
    rows = record["rows"]
    rate = {(r["size"], r["scenario"], r["way"]): r["tokens_per_s"] for r in rows}
    lines = [
        "# Extraction against other ways of scoring",
        "",
        f"{record['cpus']} CPU cores, {record['device']}, {DTYPES[record['device']]}, window "
        f"{WINDOW} tokens, random weights, corpus only. Medians of interleaved repetitions, each "
        "in a process of its own; `workers` and `ours_a_cpu` were measured once a case. "
        "The spread is that of this machine. `other` is all but scoring "
        "and the engine's start, per checkpoint: staging, swap, proof, writing, Ray. It holds a "
        "worker's own start and imports, some 6 to 10 s once, which few checkpoints share in the "
        "lower rows. `engine` and `workers` start anew for each checkpoint; ours starts once, and "
        "that start is in its tokens/s.",
        "",
        "```",
        ".venv/bin/python benchmarks/extraction.py --output docs/results/extraction.json",
        ".venv/bin/python benchmarks/extraction_page.py docs/results/extraction.json",
        "```",
        "",
        "| model | checkpoints x tokens | way | prompt tokens/s (lowest to highest) | "
        "against transformers | checkpoints/h | other, s a checkpoint |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        key = (row["size"], row["scenario"])
        spread = [
            r["tokens_per_s"]
            for r in record["repetitions"]
            if (r["size"], r["scenario"], r["way"]) == (*key, row["way"])
        ]
        base = rate.get((*key, "transformers"))
        other = row.get("other_s_a_checkpoint")
        cells = (
            *key,
            row["way"],
            f"{row['tokens_per_s']:,.0f} ({min(spread):,.0f} to {max(spread):,.0f})",
            "-" if base is None else f"{row['tokens_per_s'] / base:.2f}",
            f"{row['checkpoints_per_h']:,.0f}",
            "-" if other is None else f"{other:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Scoring alone, of our pipeline's worker against the same engine that does nothing else:",
        "",
        "| model | checkpoints x tokens | worker, tokens/s | bare engine | share | "
        "against transformers |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        bare = rate.get((row["size"], row["scenario"], "bare"))
        base = rate.get((row["size"], row["scenario"], "transformers"))
        if row["way"] == "ours" and bare and base:
            scoring = row["scoring_tokens_per_s"]
            shares = f"{scoring / bare:.2f} | {scoring / base:.2f}"
            lines.append(
                f"| {row['size']} | {row['scenario']} | {scoring:,.0f} | {bare:,.0f} | {shares} |"
            )
    words = record["words"]
    lines += [
        "",
        f"Word alignment of a document of {words['tokens']:,} tokens: {1000 * words['ours_s']:.0f} "
        f"ms; a scan of all words for each token {words['scan_s']:.1f} s "
        f"({words['scan_s'] / words['ours_s']:.0f} times as long; a sample of tokens, scaled).",
        "",
    ]
    write_text_atomic(page, "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/extraction.md"))
    arguments = parser.parse_args()
    write_page(json.loads(arguments.record.read_text(encoding="utf-8")), arguments.page)


if __name__ == "__main__":
    main()

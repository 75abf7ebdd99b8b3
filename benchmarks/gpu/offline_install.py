"""Puts the parts of benchmarks/gpu/offline.py together on a machine without a network.

    python3 install.py add PART ARCHIVE       appends one part; may be repeated
    python3 install.py unpack ARCHIVE TARGET  verifies the whole and unpacks it

Parts are added in order, in as many calls as the transfer takes. TARGET then goes on PYTHONPATH.
Needs nothing but Python.
"""

import argparse
import compileall
import hashlib
import os
import re
import sys
import tarfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

MANIFEST: dict[str, Any] = {}


def add(part: Path, archive: Path) -> None:
    """Appends a part, once: a part that is already in the archive is left out."""
    known = {entry["name"]: entry for entry in MANIFEST["parts"]}
    if part.name not in known:
        sys.exit(f"{part.name}: expected one of {', '.join(known)}.")
    entry, data = known[part.name], part.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        sys.exit(f"{part}: sha256 {found}, expected {entry['sha256']}; transfer it again.")
    size = archive.stat().st_size if archive.exists() else 0
    if size >= entry["offset"] + len(data):
        print(f"{part.name} is in {archive} already.")
        return
    if size < entry["offset"]:
        sys.exit(f"{archive} has {size:,} bytes; {part.name} begins at {entry['offset']:,}: add "
                 "the parts before it first.")  # fmt: skip
    archive.parent.mkdir(parents=True, exist_ok=True)
    with archive.open("ab") as file:
        file.truncate(entry["offset"])  # of an addition that was interrupted
        file.write(data)
    print(f"{part.name} added: {archive.stat().st_size:,} of {MANIFEST['size']:,} bytes.")


def unpack(archive: Path, target: Path) -> None:
    """Verifies the archive, unpacks it and says what does not fit the packages that are here."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MANIFEST["sha256"]:
        sys.exit(f"{archive} ({archive.stat().st_size:,} bytes): sha256 {found}, expected "
                 f"{MANIFEST['sha256']} ({MANIFEST['size']:,} bytes); add all parts.")  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:xz") as tar:
        tar.extractall(target, filter="data")
    # Else every process that starts first would compile the same modules.
    compileall.compile_dir(target, quiet=2, workers=0)
    brought = list(distributions(path=[str(target)]))
    print(f"{len(brought)} packages in {target}.")
    for line in conflicts(brought, target):
        print(line)
    print(f"export PYTHONPATH={target.resolve()}" + "${PYTHONPATH:+:$PYTHONPATH}")


def conflicts(brought: list[Distribution], target: Path) -> list[str]:
    """Requirements of what was brought that neither it nor this machine meets."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging is not installed here: requirements were not checked."]
    left_out = set(MANIFEST["left_out"])
    sys.path.insert(0, os.fspath(target))
    lines = []
    for package in brought:
        for text in package.requires or []:
            need = Requirement(text)
            name = re.sub(r"[-_.]+", "-", need.name).lower()
            if name in left_out or (need.marker and not need.marker.evaluate({"extra": ""})):
                continue
            try:
                version = distribution(need.name).version
            except PackageNotFoundError:
                version = "none"
            if version == "none" or not need.specifier.contains(version, prereleases=True):
                lines.append(f"{package.name} wants {name}{need.specifier}; found {version}.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in (("add", ("part", "archive")), ("unpack", ("archive", "target"))):
        command = commands.add_parser(name)
        for argument in arguments:
            command.add_argument(argument, type=Path)
    given = parser.parse_args()
    if given.command == "add":
        add(given.part, given.archive)
    else:
        unpack(given.archive, given.target)


if __name__ == "__main__":
    main()

"""Join the parts of benchmarks/gpu/offline.py on a machine without a network.

    python3 install.py add PART ARCHIVE       append one part; may be repeated
    python3 install.py unpack ARCHIVE TARGET  verify the archive and unpack it

Add parts in order, in as many calls as the transfer takes. Then put TARGET on PYTHONPATH. Needs
only Python.
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
    """Append a part, unless it is already in the archive."""
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
        file.truncate(entry["offset"])  # left by an interrupted addition
        file.write(data)
    print(f"{part.name} added: {archive.stat().st_size:,} of {MANIFEST['size']:,} bytes.")


def unpack(archive: Path, target: Path) -> None:
    """Verify and unpack the archive, and report conflicts with installed packages."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MANIFEST["sha256"]:
        sys.exit(f"{archive} ({archive.stat().st_size:,} bytes): sha256 {found}, expected "
                 f"{MANIFEST['sha256']} ({MANIFEST['size']:,} bytes); add all parts.")  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:xz") as tar:
        tar.extractall(target, filter="data")
    # Otherwise all processes that start first would compile the same modules.
    compileall.compile_dir(target, quiet=2, workers=0)
    brought = list(distributions(path=[str(target)]))
    print(f"{len(brought)} packages in {target}.")
    for line in conflicts(brought, target):
        print(line)
    print(f"export PYTHONPATH={target.resolve()}" + "${PYTHONPATH:+:$PYTHONPATH}")


def conflicts(brought: list[Distribution], target: Path) -> list[str]:
    """Return requirements of the unpacked packages that are not satisfied."""
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

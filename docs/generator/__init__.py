"""The pages of docs/reference/: one template each in `templates/`, filled from the code."""

import json
from pathlib import Path
from typing import Final

import jinja2

from generator import configs, interfaces, tables
from generator.markdown import cell, docstring

CONTENTS: Final = {
    "README": dict,
    "commands": interfaces.commands,
    "configs": configs.content,
    "python": interfaces.python,
    "tables": tables.content,
}


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "cell": cell,
        "json": json.dumps,
        "markdown": docstring,
        "summary": lambda text: text.partition("\n")[0],
    }
    return {
        f"{name}.md": templates.get_template(f"{name}.md.j2").render(content()).rstrip() + "\n"
        for name, content in CONTENTS.items()
    }

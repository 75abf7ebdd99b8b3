"""What every HTML report shares: templates, one style, and one script, all inside the page."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

_TEMPLATES: Final = Path(__file__).parent / "templates"


def render_page(
    template: str,
    *,
    styles: Sequence[str] = ("style.css",),
    scripts: Sequence[str] = ("tables.js",),
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """A page that loads nothing and runs no script but its own.

    The template gets `style` and `script` (the named files, one after another) and
    `content_policy`, which lets the browser run that script alone: even a name that slipped
    through the escaping could not run anything.

    Args:
        template: file in the templates folder.
        styles: files in the templates folder.
        scripts: likewise.
        filters: of the template, beside those of jinja2.
        **values: what the template shows; every text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, **(filters or {})}
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"), "ensure_ascii": False, "allow_nan": False,
    }  # fmt: skip
    script = "\n".join(_read(name) for name in scripts)
    return environment.get_template(template).render(
        style=Markup("\n".join(_read(name) for name in styles)),
        script=Markup(script),
        content_policy=_content_policy(script),
        **values,
    )


def breakable(name: str) -> Markup:
    """Long names may break after an underscore, a slash, and a dot that is not in a number."""
    return Markup(re.sub(r"([_/]|\.(?=[A-Za-z]))", r"\1<wbr>", str(escape(name))))


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _content_policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )

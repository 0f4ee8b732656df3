"""What the build adds to MkDocs: formulas as MathML, and a check that the API pages are complete.

MathML is rendered by the browser itself, so pages with formulas need no script and no network,
and screen readers can read them.
"""

import html
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """Replaces the formulas of a page by MathML."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return convert(html.unescape(found["tex"]), display=display)

    return FORMULA.sub(mathml, content)


def on_post_build(config: Any, **_: Any) -> None:
    """Fails the build if a public name has no entry in the API pages, or no docstring."""
    pages = "".join(p.read_text() for p in Path(config.site_dir, "api").glob("*.html"))
    listed = set(re.findall(r'id="(ebm_jax[\w.]+)"', pages))
    public = public_names()
    if unlisted := [name for name, value in public if not {name, defined(value)} & listed]:
        raise PluginError(
            f"public and in no API page: {', '.join(unlisted)}. List it, or make it private; a "
            "variable is listed if a string literal below it says what it is."
        )
    if silent := [name for name, value in public if is_code(value) and not inspect.getdoc(value)]:
        raise PluginError(f"public and without a docstring: {', '.join(silent)}.")


def defined(value: Any) -> str:
    """Returns the name of a class or function at the place of its definition."""
    return f"{value.__module__}.{value.__qualname__}" if is_code(value) else ""


def is_code(value: Any) -> bool:
    """Returns True for what must have a docstring."""
    return inspect.isclass(value) or inspect.isfunction(value)


def public_names() -> list[tuple[str, Any]]:
    """Returns the public names of the library with what they name."""
    package = importlib.import_module("ebm_jax")
    found = [("ebm_jax.load", package.load)]
    for room in package.__all__:
        if room == "load":
            continue
        module = importlib.import_module(f"ebm_jax.{room}")
        for name in public_of(module):
            value = getattr(module, name)
            others = is_code(value) and not value.__module__.startswith("ebm_jax")
            if not (inspect.ismodule(value) or others):
                found.append((f"{module.__name__}.{name}", value))
    return found


def public_of(module: Any) -> list[str]:
    """Returns the public names of a module: its __all__, or what it defines itself."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    return list(getattr(module, "__all__", [n for n in own if not n.startswith("_")]))

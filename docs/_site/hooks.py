"""What the site does beyond its plugins.

Formulas become MathML, which browsers show without a script, and two files of the root
become pages.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[2]
ROLE = re.compile(r":math:<code>(.*?)</code>", re.DOTALL)
FILES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_config(config: Any) -> Any:
    """Let superfences write what stands in a fence of ``math`` as MathML.

    Args:
        config: of the site.

    Returns:
        The same.
    """
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": _written}]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put a file of the root in the place of its page, with its links as seen there.

    Args:
        markdown: of the page.
        page: which one.

    Returns:
        What is to be shown.
    """
    name = FILES.get(page.file.src_uri)
    if name is None:
        return markdown
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def on_page_content(content: str, **_: Any) -> str:
    """Write the formulas of docstrings as MathML.

    Args:
        content: HTML of a page.

    Returns:
        The same without roles of ``math``.
    """
    return ROLE.sub(lambda found: convert(html.unescape(found[1])), content)


def _written(source: str, *_: Any, **__: Any) -> str:
    return f'<div class="formula">{convert(source, display="block")}</div>'

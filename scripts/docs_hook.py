"""What the site needs beyond docs/: the README as its first page, and links to the rest of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


# MkDocs passes these arguments by name, used or not.
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the README the first page."""
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files that are no pages to the repository."""
    folder = (Path(config.docs_dir) / page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        target = match["target"]
        base = _ROOT if page.file.src_uri == "index.md" and (_ROOT / target).exists() else folder
        path = (base / target).resolve()
        if path.is_relative_to(config.docs_dir) and path.is_file():
            return match[0]
        if not path.exists():
            return match[0]  # the link check reports it
        kind = "tree" if path.is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{path.relative_to(_ROOT)}{match['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)

"""What the site needs beyond ``docs/``: pages from elsewhere in the repository, the commands' options, Sphinx roles."""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "runs/README.md",
    "runs/pilot/table.md",
    "runs/nature/PROTOCOL.md",
    "examples/quickstart.ipynb",
]


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path.replace('.ipynb', '.md')}"


def repository_path(uri: str) -> str:
    """The file of the repository that a page of the site is made of."""
    return next((path for path in PAGES if site_path(path) == uri), f"docs/{uri}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Brings in the pages from outside ``docs/``, and whatever file of the repository a page links to."""
    for path in PAGES:
        files.append(File.generated(config, site_path(path), content=read_page(path)))
    for page in files.documentation_pages():
        for target in LINK.findall(page.content_string):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page.src_uri)), target))
            if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file():
                files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leads links to where the site has the files, and prints below each ``--help`` what it says."""
    here = page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(here)), match[1]))
        return posixpath.relpath(site_path(path), posixpath.dirname(here))

    markdown = re.sub(r"```bash\npython (-m agents\.\w+ --help)\n```", print_help, markdown)
    return LINK.sub(lead, markdown)


def print_help(command: re.Match[str]) -> str:
    """The options of a command, as it lists them."""
    process = subprocess.run([sys.executable, *command[1].split()], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return f"```text\n{process.stdout}```"


def read_page(path: str) -> str:
    """The Markdown of a page or a notebook."""
    text = (ROOT / path).read_text()
    return text if path.endswith(".md") else "\n\n".join(cell_text(cell) for cell in json.loads(text)["cells"])


def cell_text(cell: dict[str, Any]) -> str:
    """A notebook's cell, and below it what it printed and drew."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "image/png" in data:
            parts.append(f"![What the cell above draws](data:image/png;base64,{''.join(data['image/png']).strip()})")
        else:
            parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts)


class Roles(griffe.Extension):
    """Turns docstrings as they stand in the code into what mkdocstrings renders: Sphinx roles, and sections of one example."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object that is loaded."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r":\w+:`~?([\w.]+)`", lambda match: cross_reference(obj, match[1]), text)


def cross_reference(obj: griffe.Object, name: str) -> str:
    """A link to the object of that name where the site has it, else its name."""
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}">`{name}`</autoref>'

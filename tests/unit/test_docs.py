"""The documentation cannot drift: every Python block of every page runs, page by page, in one namespace each."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def blocks(text):
    """``(line, source)`` of each Python block."""
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in BLOCK.finditer(text)]


def run(text, name):
    """Run the blocks of a page in order in one namespace; a traceback shows the page's own line numbers."""
    namespace = {"__name__": "__main__"}
    for line, source in blocks(text):
        exec(compile("\n" * (line - 1) + source, name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", [page for page in PAGES if blocks((ROOT / page).read_text())], ids=str)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run((ROOT / page).read_text(), str(page))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_a_wrong_block_fails():
    with pytest.raises(AssertionError):
        run("```python\nx = 1\n```\ntext\n```python\nassert x == 2\n```\n", "planted")


def test_every_page_is_in_the_site():
    named = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        if page.parts[0] == "docs":
            assert page.relative_to("docs").as_posix() in named, f"{page} is not in the navigation of mkdocs.yml"

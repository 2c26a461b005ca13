"""The links, files and names in the documents exist."""

import importlib
import re

import pytest

import sdejax as sj
from tests.docs.documents import DOCUMENTS, ROOT, inline_code, text_of

FOLDERS = "sdejax|tests|benchmarks|configs|docs|examples|train|checkpoints"


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_are_there(document):
    for code in inline_code(document):
        for path in re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[a-z0-9_./-]*\.(?:py|sh|jsonl|xz)\b", code):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_exist(document):
    """Those of `sj`, and dotted names of modules. The first column of the table of old names has others."""
    text = text_of(document)
    if document == "CHANGELOG.md":
        text = re.sub(r"^\|[^|]*", "", text, flags=re.MULTILINE)
    for name in re.findall(r"\bsj\.(\w+)", text):
        assert hasattr(sj, name), f"sj.{name}"
    for name in re.findall(r"`(sdejax(?:\.\w+)+)", text):
        assert _found(name), name


def _found(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = dotted.rpartition(".")
    try:
        return bool(importlib.import_module(dotted))
    except ImportError:
        return hasattr(importlib.import_module(module), attribute)

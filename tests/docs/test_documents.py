"""Every Python snippet of the documents runs, in order, in one namespace for each document."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snippets(document):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["docs/extending.md"])
def test_the_snippets_run(document, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = snippets(document)
    assert found
    namespace = {"__name__": document}
    for snippet in found:
        exec(compile(snippet, document, "exec"), namespace)

"""Every Python snippet of the documents runs, in order, in one namespace for each document."""

import pytest

import sdejax as sj
from sdejax.jobs import formats
from sdejax.pretrained import load
from tests.docs.documents import DOCUMENTS, snippets
from tests.docs.reader import furnish, given

SLOW = ("docs/editing.md", "docs/training.md", "docs/pods.md")  # they compile more programs than the others
WITH_SNIPPETS = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DOCUMENTS if snippets(name)
]


@pytest.mark.parametrize("document", WITH_SNIPPETS)
def test_the_snippets_run(document, monkeypatch, tmp_path):
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "LAYOUTS", load.LAYOUTS)  # docs/extending.md adds to both lists
    monkeypatch.setattr(formats, "FORMATS", dict(formats.FORMATS))
    namespace = {"__name__": document, **given(document)}
    for snippet in snippets(document):
        exec(compile(snippet, document, "exec"), namespace)
    if "get_config" in namespace:
        assert isinstance(namespace["get_config"](), sj.Config)

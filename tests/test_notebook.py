"""The quick-start notebook runs, and shows what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

PATH = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(PATH, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}})
    return client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_units_are_replaced_over_several_phases(executed):
    assert len(re.findall(r"phase \d: friction", printed(executed))) >= 4
    replaced = [int(count) for count in re.findall(r"(\d+) units replaced", printed(executed))]
    assert len(replaced) == 4
    assert min(replaced) > 10


def test_curves_are_drawn(executed):
    assert [output.output_type for output in outputs(executed)].count("display_data") == 1
    assert "image/png" in outputs(executed)[-1].data


def test_what_is_committed_was_printed_by_such_a_run(executed):
    committed = nbformat.read(PATH, as_version=4)
    assert [output.output_type for output in outputs(committed)] == [output.output_type for output in outputs(executed)]
    assert re.sub(r"[\d.-]+", "#", printed(committed)) == re.sub(r"[\d.-]+", "#", printed(executed))

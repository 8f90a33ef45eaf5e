"""What the README and the other pages show works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from agents import learn, preview, report, sweep, train
from agents.playing import evaluation
from agents.runs.options import make_config
from agents.runs.plan import parse_seeds
from agents.supervised.options import make_configs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = [TEXT, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
SNIPPETS = list(dict.fromkeys(code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
COMMANDS = [
    line.split("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


@pytest.mark.filterwarnings("ignore:no unit will be replaced:UserWarning")
@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.splitlines()[0])
def test_a_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists(command):
    words = shlex.split(command)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    assert words[:2] == ["python", "-m"]
    commands = {"train": train, "learn": learn, "sweep": sweep, "report": report, "preview": preview, "evaluate": evaluation}
    arguments = commands[words[2].removeprefix("agents.")]._parser().parse_args(words[3:])
    if words[2] == "agents.learn":
        assert make_configs(arguments, [arguments.method], parse_seeds(arguments.seeds))
    elif words[2] == "agents.sweep":
        assert all(sweep.make_config(arguments, method, seed=0) for method in arguments.methods.split(","))
    elif words[2] == "agents.train" and arguments.env is not None:
        config = make_config(arguments, arguments.method or "cbp", arguments.seed or 0)
        assert config.period is None or config.timesteps > config.period


def test_every_linked_file_exists():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT)
    assert len(links) > 5
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []

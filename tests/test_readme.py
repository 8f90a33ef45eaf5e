"""What the README and the other pages show works as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import processes
import pytest

import envs
from agents import learn, preview, report, sweep, train, trainability
from agents.playing import evaluation
from agents.runs.options import make_config
from agents.runs.plan import parse_seeds
from agents.supervised.options import make_configs
from envs.native import simulation

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
PARSERS = {
    "agents.train": train._parser,
    "agents.learn": learn._parser,
    "agents.sweep": sweep._parser,
    "agents.report": report._parser,
    "agents.preview": preview._parser,
    "agents.evaluate": evaluation._parser,
    "agents.trainability": trainability._parser,
}
SNIPPETS = list(dict.fromkeys(code for text in PAGES.values() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)))

# What a newcomer types, page by page; commands in other blocks are for other machines, or take days.
COMMANDS = {
    page: [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    for page, text in PAGES.items()
    if (blocks := re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
}
SHORTER = {
    "agents.train": ["--timesteps", "4096", "--env-kwargs", "max_episode_steps=100"],
    "agents.sweep": ["--timesteps", "4096", "--period", "1024", "--seeds", "0"],
    "agents.evaluate": ["--episodes", "1"],
    "agents.trainability": ["--repetitions", "2", "--steps", "4096"],
    "slowly-changing-regression": ["--examples", "10000", "--seeds", "0-3"],
    "permuted-images": ["--tasks", "2", "--seeds", "0-1"],
    "continual-imagenet": ["--tasks", "2"],
    "class-incremental-cifar": ["--tasks", "1", "--set", "epochs=2"],
}
# SAC makes an update at each of its hundreds of steps.
SMALLER = {
    'SAC("MlpPolicy", ': 'SAC("MlpPolicy", batch_size=16, train_freq=4, env=',
    "    learning_starts=100,": "    learning_starts=100, batch_size=16,",
    "cbp.Trainability(network, torch.randn(500, 8))": "cbp.Trainability(network, torch.randn(500, 8), updates=50)",
}


@pytest.mark.filterwarnings("ignore:no unit will be replaced:UserWarning")
@pytest.mark.parametrize(
    "code",
    [pytest.param(code, id=code.splitlines()[0], marks=[pytest.mark.slow] if "learn(" in code else []) for code in SNIPPETS],
)
def test_a_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, smaller in SMALLER.items():
        code = code.replace(words, smaller)
    with patch.dict(envs.PARAMETERS), patch.dict(simulation._FAMILIES):  # examples add some of their own
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("command", dict.fromkeys(command for commands in COMMANDS.values() for command in commands))
def test_a_command_exists(command):
    words = shlex.split(command)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if words == ["source", ".venv/bin/activate"] or words[-1] == "--help":
        return
    assert words[:2] == ["python", "-m"]
    arguments = PARSERS[words[2]]().parse_args(words[3:])
    if words[2] == "agents.learn":
        assert make_configs(arguments, [arguments.method], parse_seeds(arguments.seeds or "0"))
    elif words[2] == "agents.sweep":
        assert sweep.make_configs(arguments, arguments.methods.split(","), parse_seeds(arguments.seeds))
    elif words[2] == "agents.train" and arguments.env is not None:
        config = make_config(arguments, arguments.method or "cbp", arguments.seed or 0)
        assert config.period is None or config.timesteps > config.period


def shown_commands(text):
    """Commands in blocks and in sentences, as words, but for those with parts left out or variables of a shell."""
    blocks = [
        line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.replace("\\\n", " ").splitlines()
    ]
    sentences = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*blocks, *sentences]:
        if (found := line.replace("\n", " ").find("python -m agents.")) >= 0 and not set("…$[") & set(line):
            shown = line[found:].split('"')[0] if line[:found].endswith('"') else line[found:]
            words = shlex.split(shown, comments=True)
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ">", "2>")), len(words))
            if end > 3:  # a bare name of a command is none
                yield words[:end]


@pytest.mark.parametrize("page", PAGES)
def test_the_options_of_each_command_that_a_page_shows_exist(page):
    for words in shown_commands(PAGES[page]):
        assert "--help" in words or PARSERS[words[2]]().parse_args(words[3:])


def shorter(words):
    """The command with fewer steps, where it has steps."""
    if "--resume" in words or any(word.startswith("--list-") for word in words):
        return words
    key = words[words.index("--problem") + 1] if "--problem" in words else words[2]
    film = ["--values", "1"] if "--record" in words else []
    return [*words, *SHORTER.get(key, []), *film]


def made(target):
    """What a target of the Makefile runs, once .venv is there."""
    recipe = ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/train", target, "RUN=python"]
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS")}
    return shlex.split(subprocess.run(recipe, cwd=ROOT, env=own, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("page", COMMANDS)
def test_commands_work_in_the_order_in_which_they_stand(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS[page]:
        words = shlex.split(command)
        if words in (["make", "test"], ["source", ".venv/bin/activate"]):  # what runs this, and is at work
            continue
        words = shorter(made(words[1]) if words[0] == "make" else words)
        assert words[:2] == ["python", "-m"]
        if words[-1] == "--help":  # shows of every command that it starts in a fresh interpreter
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
            continue
        process = processes.Started(*words[2:])
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, (words, out, err)


def test_every_linked_file_exists():
    links = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(((?!http)[^)#\s]+)", text)]
    assert len(links) > 50
    missing = [(page, link) for page, link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert missing == []


def test_every_test_that_a_page_names_exists():
    named = {(page, name) for page, text in PAGES.items() for name in re.findall(r"`(test_\w+)`", text)}
    assert len(named) > 20
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [(page, name) for page, name in named if f"\ndef {name}(" not in sources] == []


@pytest.mark.soak
def test_the_job_array_goes_on_where_it_was_stopped(tmp_path):
    script = next(block for block in re.findall(r"```sh\n(.*?)```", PAGES["docs/cluster.md"], re.DOTALL) if "--array" in block)
    assert script.count("--preset paper") == 1
    (tmp_path / "array.sh").write_text(script.replace("--preset paper", "--timesteps 8192 --checkpoint-minutes 0"))
    run = tmp_path / "slippery-ant" / "ant-nonstationary" / "ppo" / "seed3"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SCRATCH": str(tmp_path), "SLURM_ARRAY_TASK_ID": "3"}

    def job():
        command, pipes = ["bash", "array.sh", "ppo"], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    stopped = job()
    while not any(int(path.name.split("-")[0]) > 0 for path in run.glob("checkpoints/*.pt")):
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.1)
    stopped.terminate()
    stopped.communicate()
    assert (stopped.returncode, json.loads((run / "summary.json").read_text())["complete"]) == (130, False)
    requeued = job()
    out, err = requeued.communicate()
    assert requeued.returncode == 0, err
    assert re.search(r"from step [1-9]", out)
    assert json.loads((run / "summary.json").read_text())["complete"]
    again = job()
    assert "is complete: 8,192 of 8,192 steps" in again.communicate()[0]
    assert again.returncode == 0

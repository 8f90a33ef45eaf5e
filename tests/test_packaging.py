"""What strangers get: one version everywhere, a whole source distribution, a wheel that works in an empty environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import cbp

ROOT = Path(__file__).parent.parent
SMALL = ["--timesteps", "512", "--n-envs", "2", "--set", "rollout_steps=256", "--set", "net_arch=[8]", "--run-dir", "run"]


def test_the_version_is_the_same_everywhere():
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [cbp.__version__]
    date = re.search(r"^date-released: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[0] == f"{cbp.__version__} ({date})"


def test_what_an_index_shows_stands_by_itself():
    text = (ROOT / "PACKAGE.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "PACKAGE.md", "exec"), {})  # noqa: S102


def test_recorded_runs_are_both_tracked_and_distributed():
    tracked = re.findall(r"^!/runs/([^/\n]+)/$", (ROOT / ".gitignore").read_text(), re.MULTILINE)
    distributed = re.findall(r"^graft runs/(.+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)
    assert tracked == distributed
    assert [name for name in tracked if not (ROOT / "runs" / name).is_dir()] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution and the wheel, built from what git tracks; and the names of that."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs the repository and git")
    folder = tmp_path_factory.mktemp("built")
    list_files = ["git", "-c", "safe.directory=*", "ls-files", "-z"]  # also where the checkout is another user's
    listed = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in tracked:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "source")
    sdist, wheel = sorted((folder / "dist").iterdir(), key=lambda path: path.suffix)
    return sdist, wheel, tracked


def run(*command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_source_distribution_is_whole_and_its_tests_run(built, tmp_path):
    sdist, _, tracked = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"continual_backprop-{cbp.__version__}"
    assert [name for name in tracked if not (unpacked / name).is_file()] == []
    for tests in (["tests/test_readme.py", "-k", "exists"], ["tests/test_packaging.py", "tests/cbp/test_redo.py"]):
        printed = run(sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests, cwd=unpacked)
        assert [path for path in tests if path.endswith(".py") and not re.search(f"{path}::.* PASSED", printed)] == []
    printed = run(sys.executable, "-c", "import agents; print(agents.__file__)", cwd=unpacked)
    assert Path(printed.strip()).parent == unpacked / "agents"


@pytest.mark.slow
def test_the_wheel_has_the_packages_alone_and_trains_in_an_empty_environment(built, tmp_path):
    _, wheel, _ = built
    info = f"continual_backprop-{cbp.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"agents", "cbp", "envs", info}
        assert {f"{package}/py.typed" for package in ("agents", "cbp", "envs")} <= set(archive.namelist())
        metadata = archive.read(f"{info}/METADATA").decode()
    assert "\nProject-URL: Paper, https://doi.org/" in metadata
    assert (ROOT / "PACKAGE.md").read_text() in metadata

    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    # What it requires is lent by this environment; of that only packages are seen, not the repository it points to.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    (Path(site) / "lent.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "elsewhere").mkdir()
    code = "import agents, cbp, envs; from importlib.metadata import version; print(version('continual-backprop'))"
    code += "; print(*(package.__file__ for package in (agents, cbp, envs)))"
    printed = run(python, "-W", "error", "-c", code, cwd=tmp_path / "elsewhere").split()
    assert printed == [cbp.__version__, *(f"{site}/{package}/__init__.py" for package in ("agents", "cbp", "envs"))]
    run(python, "-m", "agents.train", "--env", "ant-nonstationary", *SMALL, cwd=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "run" / "report.png").exists()

"""The dashboard of a run, as its files say and as a browser shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from agents.sb3 import dashboard

# 35,000 steps are three records of units; few updates.
RUN = ["--env", "hopper-nonstationary", "--timesteps", 35_000, "--period", 7_000, "--n-envs", 8, "--seed", 1]
RUN += ["--set", "batch_size=512", "--set", "n_epochs=1", "--set", "net_arch=[16,12]", "--set", "maturity_threshold=10"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run; or, to look at it, that of the environment variable ``DASHBOARD_RUN``."""
    if "DASHBOARD_RUN" in os.environ:
        return Path(os.environ["DASHBOARD_RUN"])
    folder = tmp_path_factory.mktemp("runs") / "run"
    processes.run("agents.train", *RUN, "--run-dir", folder)
    return folder


@pytest.fixture(scope="module")
def events(run):
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def text_of(events, tag):
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)]


@pytest.fixture(scope="module")
def charts(events):
    """The sections of the layout, with the scalars that each of their charts shows."""
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    tags = events.Tags()["scalars"]
    return {
        section.title: {
            chart.title: [tag for tag in tags if any(re.match(regex, tag) for regex in chart.multiline.tag)]
            for chart in section.chart
        }
        for section in layout.category
    }


def test_every_chart_of_the_layout_has_curves(charts):
    assert list(charts) == ["Reward", "World", "Plasticity", "Units"]
    assert all(all(section.values()) for section in charts.values())
    assert charts["World"]["the parameter that changes"] == ["env/friction"]
    plasticity, layers = charts["Plasticity"], ("hidden1", "hidden2")
    assert plasticity["policy: idle units (dormant or saturated, fraction)"] == [
        f"plasticity/policy/{i}/dormant_fraction" for i in layers
    ]
    assert plasticity["value: stable rank, probe batch"] == [f"plasticity/value/{i}/probe_stable_rank" for i in layers]
    assert charts["Units"]["policy: units replaced, in all"] == ["cbp/policy/replaced"]


def test_sections_that_a_run_has_nothing_for_are_left_out():
    assert list(dashboard.layout(["actor", "critic"], changes=False, replaces=False)) == ["Reward", "Plasticity"]
    assert list(dashboard.layout(["q_net"], changes=True, replaces=False)) == ["Reward", "World", "Plasticity"]


def test_saturated_units_have_the_chart_of_idle_units():
    (_, (regex,)) = dashboard.layout(["actor"], changes=False, replaces=False)["Plasticity"][
        "actor: idle units (dormant or saturated, fraction)"
    ]
    tags = [f"plasticity/actor/hidden1/{name}" for name in ("dormant_fraction", "saturated_fraction", "tau_dormant_fraction")]
    assert [bool(re.match(regex, tag)) for tag in (*tags, "plasticity/critic/hidden1/dormant_fraction")] == [1, 1, 0, 0]


def test_every_change_of_phase_has_a_note_with_the_verdict(run, events):
    summary = json.loads((run / "summary.json").read_text())
    notes = text_of(events, "phases/text_summary")
    values = [phase["friction"] for phase in summary["phases"]]
    assert len(notes) >= 3
    for number, (step, text) in enumerate(notes):
        assert text.startswith(f"**Phase {number + 1}: friction {values[number]:.3g} → {values[number + 1]:.3g}.** ")
        # Each environment changes at the first end of an episode after its share of the period.
        assert (number + 1) * 7_000 <= step <= (number + 1) * (7_000 + 8 * 1_000)
        assert "of the policy's units dormant" in text
    assert notes[0][1].count("Too early to tell (1 of 5 phases)") == 1
    verdicts = [phase["verdict"] for phase in summary["phases"]]
    assert verdicts[0].startswith("Too early to tell (1 of 5 phases): ")
    assert verdicts[-1] is None or summary["phases"][-1]["steps"] >= 7_000
    assert summary["verdict"]["words"] == [verdict for verdict in verdicts if verdict][-1]
    assert {"dormant_fraction", "stable_rank"} == set(summary["phases"][0]["measures"])


def test_hyperparameters_are_in_the_hparams_tab(run, events):
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    config = json.loads((run / "config.json").read_text())
    assert hparams["method"].string_value == config["method"] == "cbp"
    assert hparams["learning_rate"].number_value == config["hyperparameters"]["learning_rate"]
    assert hparams["method_kwargs.replacement_rate"].number_value == config["method_kwargs"]["replacement_rate"]
    assert hparams["net_arch"].string_value == str(tuple(config["hyperparameters"]["net_arch"]))


def test_the_figure_is_in_the_images_tab(run, events):
    (image,) = events.Images("report")
    width, height = (int.from_bytes((run / "report.png").read_bytes()[i : i + 4], "big") for i in (16, 20))
    assert (image.width, image.height) == (width, height)
    assert image.step == json.loads((run / "summary.json").read_text())["timesteps"]


@pytest.fixture
def tensorboard(run):
    """TensorBoard on the run, and its port."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", run, "--host", "localhost", "--port", "0"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "http://localhost:" in line)
        yield int(re.search(r"http://localhost:(\d+)/", line)[1])
    finally:
        process.terminate()
        process.communicate()


# Of each section its title and charts, of each chart its title and the number of curves that are drawn; in all shadow trees.
LOOK = """
function* walk(root) {
  for (const element of root.querySelectorAll('*')) {
    yield element;
    if (element.shadowRoot) yield* walk(element.shadowRoot);
  }
}
const find = (root, tag) => [...walk(root)].filter(element => element.tagName.toLowerCase() === tag);
const drawn = path => path.getAttribute('class') === 'line' && path.getBoundingClientRect().width > 100;
return find(document, 'tf-category-paginated-view').map(section => [
  section.category.name,
  find(section, 'tf-custom-scalar-multi-line-chart-card').concat(
    find(section.shadowRoot, 'tf-custom-scalar-multi-line-chart-card')
  ).map(card => [card.title, find(card.shadowRoot, 'path').filter(drawn).length]),
]);
"""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="Chromium is not installed")
def test_a_browser_shows_sections_and_curves_under_the_printed_link(tensorboard, charts, tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.add_argument("--headless=new")
    options.add_argument("--window-size=1400,4200")  # what is out of sight is not loaded
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    expected = {section: {title: len(tags) for title, tags in of_section.items()} for section, of_section in charts.items()}
    try:
        browser.get(dashboard.LINK.replace(":6006", f":{tensorboard}"))
        shown, deadline = None, time.monotonic() + 300
        while shown != expected and time.monotonic() < deadline:
            time.sleep(0.5)
            shown = {section: dict(of_section) for section, of_section in browser.execute_script(LOOK)}
        browser.set_window_size(1400, 1500)  # for a picture
        browser.save_screenshot(os.environ.get("DASHBOARD_SCREENSHOT", str(tmp_path / "dashboard.png")))
    finally:
        browser.quit()
    assert shown == expected

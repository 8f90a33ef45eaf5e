"""The commands that tell of environments before anyone trains in them."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from matplotlib.figure import Figure
from matplotlib.image import imread

import envs
from agents import preview, train
from agents.runs.build import make_model, make_vec_env
from agents.runs.options import make_config

SHORT = ["--timesteps", "100000", "--period", "8000", "--n-envs", "4"]


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def values_of(seed, phases, **kwargs):
    env = gymnasium.make("ant-nonstationary-v0", period=1, change_at="now", seed=seed, **kwargs)
    env.reset()
    return [env.step(env.action_space.sample())[4]["friction"] for _ in range(phases)]


@pytest.mark.usefixtures("rendered")
def test_the_values_that_are_printed_are_those_that_come(capsys, tmp_path):
    schedule = {"name": "random_walk", "step": 0.2}
    assert preview.main(["ant-nonstationary", "--schedule", "random_walk,step=0.2", *SHORT, "--seeds", "5"]) == 0
    expected = ", ".join(f"{value:.3g}" for value in values_of(5, 10, schedule=schedule))
    first, seen, last = capsys.readouterr().out.splitlines()
    assert seen.startswith("seen: friction 0.02 and 2: friction of contacts 0.02 and 2; another trajectory from step")
    assert first == f"friction (1), RandomWalk(step=0.2, scale='linear'): {expected}, … 3 more"
    assert last == "preview.png: the values of seeds 5"
    assert imread(tmp_path / "preview.png").std() > 0.05  # not an empty picture


def test_all_phases_of_bursts_are_drawn(capsys):
    bursts = ["--times", "bursts,changes=50,gap=10", "--period", "1000", "--timesteps", "100000", "--n-envs", "1"]
    assert preview.main(["ant-nonstationary", *bursts, "--seeds", "0"]) == 0
    # A burst takes 49 gaps of 10 steps, so they begin after 1,000 + 1,490·k steps, the last, k = 66, after 99,340: the first
    # phase and 67 · 50 others, of which 10 are printed.
    assert "… 3,341 more" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("schedule", "seeds", "labels"),
    [("uniform", "3", ["seed 3"]), ("uniform", "0,2", ["seed 0", "seed 2"]), ("sine,length=4", "0,2", ["every seed"])],
)
def test_the_legend_says_whose_values_are_drawn(schedule, seeds, labels, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure.legends[0]))
    assert preview.main(["ant-nonstationary", "--schedule", schedule, *SHORT, "--seeds", seeds]) == 0
    assert [text.get_text() for text in drawn[0].get_texts()] == labels


def test_phases_end_where_each_environment_has_had_its_share(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(preview, "_draw", lambda courses, *_: drawn.extend(courses))
    assert preview.main(["ant-nonstationary", "--period", "1003", "--timesteps", "3500", "--n-envs", "4", "--seeds", "0"]) == 0
    assert drawn[0].edges == [[0, 1000, 2000, 3000, 3500]]


def test_a_forecast_changes_nothing():
    env = envs.NonStationary(gymnasium.make("Ant-v5"), period=1, change_at="now", seed=0)
    env.reset()
    env.step(np.zeros(8))
    first, again = env.forecast(5), env.forecast(5)
    assert first == again
    came = [env.values] + [{"friction": env.step(np.zeros(8))[4]["friction"]} for _ in range(4)]
    assert came == first


def test_a_part_that_decides_in_a_part_of_its_range_is_previewed(capsys, monkeypatch):
    assert preview.main(["Hopper-v5", "--param", "friction:foot_geom,low=0.02,high=5", *SHORT, "--seeds", "0"]) == 0
    assert "seen: friction:foot_geom 0.02 and 5: friction of contacts 1 and" in capsys.readouterr().out

    def refuse(*_, **__):
        raise envs.ParameterError("not here")

    monkeypatch.setattr(envs, "verify", refuse)
    assert preview.main(["Hopper-v5", "--param", "friction", *SHORT, "--seeds", "0", "--output", "other.png"]) == 2
    assert capsys.readouterr().err == "error: not here\n"


@pytest.mark.usefixtures("rendered")
def test_several_parameters_and_several_schedules_have_a_panel_each(capsys):
    arguments = ["Hopper-v5", "--param", "gravity,low=5,high=6", "--param", "strength:leg_joint,schedule=square", *SHORT]
    assert preview.main([*arguments, "--output", "two.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["gravity (m/s²)", "strength:leg_joint (times its own)"]
    nested = 'gravity,schedule={"name":"sum","schedules":["sine",{"name":"list","values":[5,9]}]},low=5,high=15'
    assert preview.main(["Hopper-v5", "--param", nested, *SHORT, "--output", "nested.png"]) == 0
    assert "Values(values=(5.0, 9.0), at_end='repeat')))" in capsys.readouterr().out
    schedules = [word for name in ("sine", "saw", "square", "drift", "uniform") for word in ("--schedule", name)]
    assert preview.main(["hopper-nonstationary", *schedules, *SHORT, "--output", "five.png"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    heights = [imread(name).shape[0] for name in ("two.png", "five.png")]
    assert heights[1] > heights[0]  # two rows, and three


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ant-nonstationary", "--output", "there.png"], "'there.png' exists already"),
        (["ant-nonstationary", "--output", "no/where.png"], "cannot write 'no/where.png': No such file"),
        (["ant-nonstationary", "--output", "picture.docx"], "--output must end in "),
        (["Ant-v5"], "does not change; --period or --param"),
        (["Ant-v5", "--change-at", "now"], "--change-at is of an env that changes, which 'Ant-v5' does not"),
        (["ant-stationary", "--observe"], "--observe is of an env that changes, which 'ant-stationary' does not"),
        (["ant-nonstationary", "--schedule", "sin"], "--schedule: schedule must be one of"),
        (["ant-nonstationary", "--schedule", "sine,length"], "'sine,length' takes key=value, got 'length'"),
        (["ant-nonstationary", "--schedule", '{"name": "sine"'], "--schedule must be a name with options or JSON"),
        (["ant-nonstationary", "--schedule", "file,path=none.csv"], "schedule file 'none.csv' cannot be read"),
        (["ant-nonstationary", "--param", "fricton"], "'fricton'"),
        (["ant-nonstationary", "--param", "friction", "--param", "friction"], "each parameter once"),
        (["ant-nonstationary", "--param", "friction", "--param", "gravity", "--low", "1"], "low belongs to one parameter"),
        (["ant-nonstationary", "--param", "gravity,low=1,low=2"], "takes each key once"),
        (["ant-nonstationary", "--param", "mass:torsoo"], "did you mean 'torso'"),
        (["ant-nonstationary", "--param", "friction,period=9"], "takes schedule, low, high, factor, got period"),
        (["ant-nonstationary", "--param", "friction,count=episodes"], "got count"),
        (["ant-nonstationary", "--param", "task"], "is that of a sequence of tasks, such as 'task-sequence-v0'"),
        (["Ant-v5", "--param", "task"], "is that of a sequence of tasks"),
        (["ant-nonstationary", "--env-kwargs", "period=9"], "--env-kwargs takes no period: --period is for it"),
        (["ant-nonstationary", "--env-kwargs", "count=episodes"], "--env-kwargs takes no count: a run counts steps"),
        (["ant-nonstationary", "--env-kwargs", "render_mode=human"], "--env-kwargs takes no render_mode, got 'human'"),
        (["ant-nonstationary", "--output", "there"], "--output must end in "),  # as there.png would be written
        (["ant-nonstationary", "--output", "a.pgf"], "got 'a.pgf'"),
        (["ant-nonstationary", "--output", ""], "must name a file or a folder, got ''"),
        (["ant-nonstationary", "--env-kwargs", "change_at=now"], "--env-kwargs takes no change_at: --change-at is for it"),
        (["hopper-nonstationary", "--protocol", "quick-ant"], "is in 'ant-nonstationary-v0' and takes no other --env"),
        (["--output", "none.png"], "--env is missing"),
        (["ant-nonstationary", "--low", "3"], "low must be at most high"),
        (["ant-nonstationary", "--set", "net_arch=[8]"], "--set is of what --algo says"),
        (["hopper-nonstationary", "--algo", "dqn"], "dqn needs discrete actions"),
        (["ant-nonstationary", "--change-at", "later"], "'episode_end', 'now'"),
        (["CartPole-v1", "--period", "1000"], "must be a MuJoCo environment, got CartPole-v1"),
        (["ant-nonstationary", "--timesteps", "100000000", "--period", "8"], "at most 100,000 phases, got 12,500,000"),
        (["swimmer-nonstationary", "--param", "friction"], "condim), which SwimmerEnv lacks"),
        (["Walker2d-v5", "--param", "friction:torso_geom", "--low", "3", "--high", "5"], "torso_geom has no effect on"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_no_file(arguments, words, capsys, tmp_path):
    (tmp_path / "there.png").write_text("kept")
    assert preview.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert [path.name for path in tmp_path.iterdir() if path.name != "MUJOCO_LOG.TXT"] == ["there.png"]
    assert (tmp_path / "there.png").read_text() == "kept"


def test_every_registered_environment_is_listed_in_a_line(capsys):
    assert train.main(["--list-envs"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    registered = [spec.id for spec in gymnasium.registry.values() if str(spec.entry_point).startswith("envs.")]
    assert names == sorted(registered)


@pytest.mark.parametrize("name", ["hopper-nonstationary", "Hopper-v5"])
def test_every_parameter_is_listed_in_a_line_with_what_the_model_has(name, capsys):
    assert train.main(["--list-parameters", name]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == envs.PARAMETERS.keys()
    assert lines["friction"].startswith("own 0.9 to 2; bounds 1e−05 to ∞; by default 0.02 to 2, log_uniform;")
    assert lines["gravity"].startswith("own 9.81 m/s²; bounds 0 to ∞ m/s²;")
    assert "with --no-factor, --low and --high" in lines["stiffness"]
    assert lines["wind"] == "not here: wind needs a medium (density or viscosity above 0), which Hopper-v5 lacks"
    assert lines["mass"].endswith("parts: torso, thigh, leg, foot")
    assert lines["dead_observation"].startswith("bounds 0 to 11; by default 0 to 11, uniform;")
    assert lines["dead_action"].startswith("bounds 0 to 3; by default 0 to 3, uniform;")
    assert lines["contact_time"].startswith("own 0.02 s; bounds 0.004 to ∞ s;")  # two time steps


def _lacking(**_kwargs):
    raise gymnasium.error.DependencyNotInstalled("no world without the package 'elsewhere'")


def test_an_environment_that_cannot_be_made_has_no_list(capsys, monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "Lacking-v0", EnvSpec("Lacking-v0", entry_point=_lacking))
    assert train.main(["--list-parameters", "Lacking-v0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no world without the package 'elsewhere'")
    assert error.count("\n") == 1


def test_what_is_no_mujoco_environment_has_its_own_list(capsys):
    assert train.main(["--list-parameters", "CartPole-v1"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["friction"].startswith("not here: env must be a MuJoCo environment, got CartPole-v1")
    assert lines["observation_noise"].startswith("bounds 0 to ∞ units of the observation;")
    assert lines["action_noise"].startswith("not here: action_noise needs actions that are a Box")


def test_random_times_are_drawn_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    courses = []
    draw = preview._draw
    monkeypatch.setattr(preview, "_draw", lambda drawn, *others: (courses.extend(drawn), draw(drawn, *others)))
    run = ["hopper-nonstationary", "--period", "8000", "--timesteps", "100000", "--n-envs", "4", "--times"]
    assert preview.main([*run, "geometric", "--seeds", "0-1"]) == 0
    gaps = [np.diff(edges[:-1]) for edges in courses[0].edges]
    assert gaps[0].tolist() != gaps[1].tolist()
    assert all(len(set(each.tolist())) > 3 and not (each % 4).any() for each in gaps)
    assert preview.main([*run, "bursts,changes=2,gap=400", "--output", "b.png", "--seeds", "0"]) == 0
    assert np.diff(courses[1].edges[0])[:4].tolist() == [8000, 400, 8000, 400]
    capsys.readouterr()
    for times, words in (("gamma", "unknown times 'gamma'"), ("bursts,changes=2", "takes changes, gap, calm")):
        assert preview.main([*run, times, "--output", "c.png"]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


# Of 16 units 1/64 each is due with every update after the 100th, so the first is replaced by the 104th.
BUSY = [
    *("--set", "net_arch=[16,16]", "--set", "maturity_threshold=100", "--set", "replacement_rate=0.015625"),
    *("--set", 'rounding="counter"', "--timesteps", "4000", "--period", "1000", "--seeds", "0"),
]
OFF_POLICY = ["--set", "learning_starts=500", "--set", "train_freq=4", "--set", "gradient_steps=2"]


@pytest.mark.filterwarnings("ignore:a phase is short")
@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["CartPole-v1", "--param", "observation_noise", "--algo", "dqn", *OFF_POLICY],
            ["dqn: q_net: 1,750 updates; the first unit is replaced by update 104, after step 708"],
        ),
        (
            ["Hopper-v5", "--param", "friction", "--algo", "td3", *OFF_POLICY],
            [
                "td3: actor: 875 updates; the first unit is replaced by update 104, after step 916",
                "td3: critic: 1,750 updates; the first unit is replaced by update 104, after step 708",
            ],
        ),
        (
            *[["Hopper-v5", "--param", "friction", "--algo", "ppo", "--n-envs", "4", "--set", "rollout_steps=200"]],
            ["ppo: policy and value: 160 updates; the first unit is replaced by update 104, after step 2,600"],
        ),
    ],
    ids=["dqn", "td3", "ppo"],
)
def test_updates_and_the_first_replacement_are_told_of_an_algorithm(arguments, lines, capsys):
    batches = ["--set", "batch_size=50", "--set", "n_epochs=2"] if "ppo" in arguments else []
    assert preview.main([*arguments, *batches, *BUSY]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ppo:", "td3:", "dqn:"))]
    assert told == lines


@pytest.mark.filterwarnings("ignore:a phase is short")
def test_a_forecast_agrees_with_the_run(tmp_path, capsys):
    """The run before the step that is named has replaced no unit, the run to it has."""
    arguments = ["CartPole-v1", "--param", "observation_noise", "--algo", "dqn", *OFF_POLICY, *BUSY]
    assert preview.main(arguments) == 0
    assert "after step 708" in capsys.readouterr().out
    for steps, replaced in ((704, 0), (708, 2)):
        config = make_config(preview._parser().parse_args([*arguments, "--timesteps", str(steps)]), "cbp", 0)
        model = make_model(config, make_vec_env(config))
        model.learn(steps)
        assert sum(layer.replaced for layer in model.policy.method.layers) == replaced


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"maturity_threshold=100": "maturity_threshold=1750"}, "no unit is replaced, as units mature after 1,750"),
        ({"replacement_rate=0.015625": "replacement_rate=0"}, "no unit is replaced"),
    ],
)
@pytest.mark.filterwarnings("ignore:a phase is short")
def test_a_run_that_replaces_no_unit_is_called_so(settings, words, capsys):
    environment = ["CartPole-v1", "--param", "observation_noise", "--algo", "dqn"]
    assert preview.main([*environment, *OFF_POLICY, *(settings.get(word, word) for word in BUSY)]) == 0
    assert f"dqn: q_net: 1,750 updates; {words}" in capsys.readouterr().out.splitlines()


def test_a_protocol_is_previewed_whichever_way_its_environment_is_named(capsys):
    for number, named in enumerate(([], ["ant-nonstationary"], ["envs:ant-nonstationary"])):
        assert preview.main([*named, "--protocol", "quick-ant", "--seeds", "0", "--output", f"{number}.png"]) == 0
    values = [line for line in capsys.readouterr().out.splitlines() if line.startswith("friction")]
    assert len(values) == 3
    assert len(set(values)) == 1

"""What TensorBoard shows of a run beside curves: the dashboard's layout, hyperparameters, the figure, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
from stable_baselines3.common.logger import HParam, Logger, TensorBoardOutputFormat

LINK = "http://localhost:6006/#custom_scalars&_smoothingWeight=0"
"""The dashboard, once ``tensorboard --logdir RUN --host localhost`` runs."""

Section = dict[str, list[Any]]


def _outputs(logger: Logger) -> list[TensorBoardOutputFormat]:
    return [output for output in logger.output_formats if isinstance(output, TensorBoardOutputFormat)]


def layout(networks: Iterable[str], *, changes: bool, replaces: bool) -> dict[str, Section]:
    """The sections of the dashboard, as ``torch.utils.tensorboard`` takes them: charts, and what is drawn in each.

    Args:
        networks: ``policy`` and ``value``, or what else the algorithm calls them.
        changes: Whether the world changes.
        replaces: Whether there is a method that replaces units.
    """
    sections = {"Reward": {"mean return of the last 100 episodes": chart("rollout/ep_rew_mean")}}
    if changes:
        sections["World"] = {"the parameter that changes": chart("env/(?!phase)[^/]+"), "phase": chart("env/phase")}
    return sections | network_sections(networks, replaces=replaces)


def network_sections(networks: Iterable[str], *, replaces: bool) -> dict[str, Section]:
    """The sections on the units of some networks; ``replaces`` says whether there is a method that replaces units."""
    sections: dict[str, Section] = {"Plasticity": {}}
    for network in networks:
        for title, measure in (
            ("idle units (dormant or saturated, fraction)", "(dormant|saturated)_fraction"),
            ("τ-dormant units (fraction)", "tau_dormant_fraction"),
            ("stable rank", "stable_rank"),
            ("stable rank, probe batch", "probe_stable_rank"),
            ("mean |w|", "weight_magnitude"),
            ("distance from initial weights", "distance_from_init"),
            ("change of weights in a rollout", "weight_change"),
            ("gradient norm", "gradient_norm"),
            ("units with hardly any gradient (fraction)", "gradient_dormant_fraction"),
        ):
            sections["Plasticity"][f"{network}: {title}"] = chart(f"plasticity/{network}/[^/]+/{measure}")
        kernels = chart(f"plasticity/{network}/([^/]+/)?probe_ntk_effective_rank")
        sections["Plasticity"][f"{network}: effective rank of the tangent kernel"] = kernels
    if replaces:
        sections["Units"] = {}
        for network in networks:
            sections["Units"][f"{network}: units replaced, in all"] = chart(f"cbp/{network}/replaced")
            for title, measure in (
                ("mature units (fraction)", "mature_fraction"),
                ("mean utility", "mean_utility"),
                ("mean age (updates)", "mean_age"),
            ):
                sections["Units"][f"{network}: {title}"] = chart(f"cbp/{network}/[^/]+/{measure}")
    return sections


def chart(tag: str) -> list[Any]:
    """A chart of all scalars whose names match the regular expression ``tag``."""
    return ["Multiline", [f"{tag}$"]]  # TensorBoard matches from the beginning, but not to the end


def write_layout(logger: Logger, sections: dict[str, Section]) -> None:
    """Writes the layout of the dashboard to TensorBoard, where the logger writes to it."""
    for output in _outputs(logger):
        output.writer.add_custom_scalars(sections)


def write_hyperparameters(logger: Logger, settings: Mapping[str, Any]) -> None:
    """Writes a run's settings to TensorBoard's HParams tab."""
    shown = {name: value if isinstance(value, str | bool | int | float) else str(value) for name, value in settings.items()}
    metrics = dict.fromkeys(("rollout/ep_rew_mean", "cbp/policy/replaced"), 0.0)
    for output in _outputs(logger):
        output.write({"hparams": HParam(shown, metrics)}, {"hparams": ()})


def write_figure(logger: Logger, path: Path, timesteps: int) -> None:
    """Writes a picture, if it is there, to TensorBoard's Images tab."""
    if path.exists():
        for output in _outputs(logger):
            output.writer.add_image(path.stem, matplotlib.image.imread(path), timesteps, dataformats="HWC")


def write_note(logger: Logger, name: str, text: str, timesteps: int) -> None:
    """Writes a note to TensorBoard's Text tab."""
    for output in _outputs(logger):
        output.writer.add_text(name, text, timesteps)

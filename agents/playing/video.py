"""Films episodes off-screen, with the value of the parameter written in the picture."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed

from agents.playing.episodes import MODES, MakeEnv, act
from agents.runs.checkpoints import Trained
from agents.runs.commands import progress_bar
from agents.runs.errors import RunError, UserError, in_words
from envs.simulation import look_for_model

ENDING = ".mp4"

_PACKAGES = {"egl": "libegl1 and libgl1-mesa-dri", "osmesa": "libosmesa6"}  # Debian's, in the order in which they are tried
_RENDER = """
import os, mujoco
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
model = mujoco.MjModel.from_xml_string("<mujoco/>")
OffScreenViewer(model, mujoco.MjData(model), 64, 64).render("rgb_array")
os._exit(0)  # some drivers end with an error
"""
_MOST_FRAMES = 30  # in a second
_PAUSE = 0.5  # seconds for which the last picture of an episode stays
_MARGIN = 10  # pixels around the text
_TEXT_SIZE = 24
_WHOLE = 100  # a return from which on is written without decimals


def check_packages() -> None:
    """Refuses to go on without what encodes and writes into pictures.

    Raises:
        UserError: A package is missing.
    """
    try:
        import imageio_ffmpeg  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise UserError(f"recording needs '{error.name}': pip install 'continual-backprop[video]'") from error


def choose_renderer(wanted: str | None, among: Sequence[str] = tuple(_PACKAGES)) -> str:
    """Finds out by which library MuJoCo can draw off-screen here, by drawing in another process, and makes Gymnasium use it.

    Args:
        wanted: The user's ``MUJOCO_GL``; None or an empty text leaves the choice.
        among: What is tried otherwise.

    Returns:
        Its name, now in ``MUJOCO_GL``.

    Raises:
        UserError: None works.
    """
    for name in [wanted.strip().lower()] if wanted else among:
        environment = {**os.environ, "MUJOCO_GL": name}
        if not subprocess.run([sys.executable, "-c", _RENDER], env=environment, capture_output=True, check=False).returncode:  # noqa: S603
            os.environ["MUJOCO_GL"] = name
            return name
    tried = f"MUJOCO_GL={wanted} cannot" if wanted else f"neither {' nor '.join(among)} can"
    packages = f"Debian's packages are {_PACKAGES['egl']} for egl, {_PACKAGES['osmesa']} for osmesa"
    raise UserError(f"{tried} draw off-screen here; {packages}")


def record(trained: Trained, make_env: MakeEnv, labels: dict[float, str], seed: int, path: Path) -> None:
    """Films one deterministic episode under each value, one after the other, in their own time.

    Args:
        trained: The policy.
        make_env: Makes an environment with ``render_mode="rgb_array"`` that stays at a value.
        labels: What is written into the pictures, for each value.
        seed: With which each environment is reset.
        path: The file to write, an mp4.

    Raises:
        UserError: The environment cannot be made so.
        RunError: It breaks off, or draws no pictures.
    """
    import imageio.v2 as imageio  # needs the extra

    writer: Any = None
    bar = progress_bar(len(labels), unit=" episodes", desc="recording")
    try:
        for value, label in labels.items():
            set_random_seed(seed)
            env = make_env(value)
            if (model := look_for_model(env)) is not None:
                # Shadows and smooth edges take four fifths of the time where no GPU draws.
                model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
            rate = float(env.metadata.get("render_fps") or _MOST_FRAMES)
            every = int(np.ceil(rate / _MOST_FRAMES))
            if writer is None:
                writer = imageio.get_writer(path, format="FFMPEG", fps=rate / every, macro_block_size=2)
            picture = None
            for picture in _pictures(env, trained, label, seed, every):
                writer.append_data(picture)
            for _ in range(round(_PAUSE * rate / every)):
                writer.append_data(picture)
            bar.update()
    finally:
        bar.close()
        if writer is not None:
            writer.close()


def _pictures(env: gymnasium.Env[Any, Any], trained: Trained, label: str, seed: int, every: int) -> Iterator[NDArray[np.uint8]]:
    """The pictures of an episode: the first, the last, and every so many between."""
    total, step, done = 0.0, 0, False
    try:
        observation, _ = env.reset(seed=seed)
        yield _write(env.render(), f"{label}\nreturn 0   step 0")
        while not done:
            seen = np.asarray(observation, env.observation_space.dtype)[None]
            observation, reward, terminated, truncated, _ = env.step(act(trained, seen, MODES[0])[0])
            total, step, done = total + float(reward), step + 1, terminated or truncated
            if step % every == 0 or done:
                shown = f"{total:,.0f}" if abs(total) >= _WHOLE or total == 0 else f"{total:.3g}"
                yield _write(env.render(), f"{label}\nreturn {shown}   step {step:,}")
    except Exception as error:  # whatever an environment of others raises
        raise RunError(f"no film of the episode under {label}: {in_words(error)}") from error
    finally:
        env.close()


def _write(picture: Any, text: str) -> NDArray[np.uint8]:
    """A picture with two lines of text on a dark ground in its upper left corner."""
    from PIL import Image, ImageDraw, ImageFont  # needs the extra

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=_TEXT_SIZE)
    left, top, right, bottom = draw.textbbox((_MARGIN, _MARGIN), text, font=font)
    draw.rectangle((left - _MARGIN, top - _MARGIN, right + _MARGIN, bottom + _MARGIN), fill="black")
    draw.text((_MARGIN, _MARGIN), text, fill="white", font=font)
    return np.asarray(image)

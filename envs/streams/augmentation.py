"""Augmentation of images: pure functions of images and a generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.float32]


def jitter(images: Pictures, generator: np.random.Generator) -> Pictures:
    """Turns each image by up to 15° either way, stretches it by 0.9 to 1.1 and shifts it by up to a pixel each way.

    Every size is ours: enough for ever new digits of 8×8 that are still readable.

    Args:
        images: ``(n, channels, height, width)``.
        generator: Four numbers are drawn from it for each image.

    Returns:
        As many images, zero where they show what was outside.
    """
    angle, scale, down, right = (2 * generator.random((len(images), 4)) - 1).T
    return warp(images, np.deg2rad(15 * angle), 1 + 0.1 * scale, down, right)


def flip_crop_rotate(images: Pictures, generator: np.random.Generator) -> Pictures:
    """Mirrors half of the images, shifts each by up to 4 pixels (what was outside is its reflection), turns it by up to 15°.

    The paper's augmentation of CIFAR-100 (a random crop of the image padded by 4 pixels is such a shift); the turn is to one
    side, as in the published code.

    Args:
        images: ``(n, channels, height, width)``.
        generator: Four numbers are drawn from it for each image.

    Returns:
        As many images, zero where they show what was outside the turned one.
    """
    padding = 4
    mirrored, down, right, angle = generator.random((len(images), 4)).T
    flipped = np.where((mirrored < 0.5)[:, None, None, None], images[..., ::-1], images)
    padded = np.pad(flipped, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode="reflect")
    rows, columns = (
        np.floor(shift * (2 * padding + 1)).astype(int)[:, None] + np.arange(size)
        for shift, size in ((down, images.shape[2]), (right, images.shape[3]))
    )
    chosen = np.arange(len(images))[:, None, None]
    cropped = padded[chosen, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    return warp(cropped, np.deg2rad(15 * angle), np.ones(len(images)), np.zeros(len(images)), np.zeros(len(images)))


def warp(
    images: Pictures,
    angle: NDArray[np.float64],
    scale: NDArray[np.float64],
    down: NDArray[np.float64],
    right: NDArray[np.float64],
) -> Pictures:
    """Turns images about their centres, stretches and shifts them, with bilinear interpolation.

    Args:
        images: ``(n, channels, height, width)``.
        angle: Counterclockwise, in radians: ``(n,)``, as the others.
        scale: Greater than 1 enlarges.
        down: In pixels.
        right: In pixels.

    Returns:
        As many images, zero where they show what was outside.
    """
    number, _, height, width = images.shape
    y, x = np.mgrid[:height, :width].reshape(2, 1, -1) - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    y, x = y - down[:, None], x - right[:, None]
    cos, sin = np.cos(angle)[:, None] / scale[:, None], np.sin(angle)[:, None] / scale[:, None]
    # Where each pixel of the result comes from: the inverse of the turn.
    from_y, from_x = y * cos + x * sin + (height - 1) / 2, x * cos - y * sin + (width - 1) / 2
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2), (1, 2)))  # zeros around, in which what is outside ends up
    from_y, from_x = np.clip(from_y + 1, 0, height + 1), np.clip(from_x + 1, 0, width + 1)
    top, left = np.floor(from_y).astype(int), np.floor(from_x).astype(int)
    below, beside = (from_y - top).astype(np.float32), (from_x - left).astype(np.float32)
    of = np.arange(number)[:, None]

    def at(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Pictures:
        taken: Pictures = padded[of, :, rows, columns]  # (n, pixels, channels)
        return taken

    upper = at(top, left) * (1 - beside)[..., None] + at(top, left + 1) * beside[..., None]
    lower = at(top + 1, left) * (1 - beside)[..., None] + at(top + 1, left + 1) * beside[..., None]
    mixed = upper * (1 - below)[..., None] + lower * below[..., None]
    result: Pictures = np.ascontiguousarray(mixed.transpose(0, 2, 1), np.float32).reshape(images.shape)
    return result

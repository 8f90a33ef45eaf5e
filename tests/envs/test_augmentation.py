"""Augmentation against loops over single pixels, and turns that need none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from envs.streams.augmentation import flip_crop_rotate, jitter, warp

IMAGES = np.random.default_rng(0).random((3, 2, 6, 6)).astype(np.float32)
ZERO, ONE = np.zeros(3), np.ones(3)


def by_hand(image, angle, scale, down, right):
    """One image of ``(channels, height, width)``: for each pixel, where it comes from and what lies there."""
    channels, height, width = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2

    def at(c, y, x):
        return float(image[c, y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    result = np.zeros_like(image)
    for c in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = row - middle_y - down, column - middle_x - right
                # Rows go down: a counterclockwise turn takes (y, x) to (y cos − x sin, x cos + y sin). This is its inverse.
                from_y = (y * math.cos(angle) + x * math.sin(angle)) / scale + middle_y
                from_x = (x * math.cos(angle) - y * math.sin(angle)) / scale + middle_x
                top, left = math.floor(from_y), math.floor(from_x)
                b, s = from_y - top, from_x - left
                upper = (1 - s) * at(c, top, left) + s * at(c, top, left + 1)
                lower = (1 - s) * at(c, top + 1, left) + s * at(c, top + 1, left + 1)
                result[c, row, column] = (1 - b) * upper + b * lower
    return result


def test_no_change_is_no_change():
    assert np.array_equal(warp(IMAGES, ZERO, ONE, ZERO, ZERO), IMAGES)


def test_a_quarter_turn_is_counterclockwise():
    turned = warp(IMAGES, np.full(3, math.pi / 2), ONE, ZERO, ZERO)
    np.testing.assert_allclose(turned, np.rot90(IMAGES, axes=(2, 3)), atol=1e-6)


def test_a_whole_pixel_is_a_shift_with_zeros_behind():
    moved = warp(IMAGES, ZERO, ONE, np.full(3, 2.0), np.full(3, -1.0))
    expected = np.zeros_like(IMAGES)
    expected[:, :, 2:, :-1] = IMAGES[:, :, :-2, 1:]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_images_are_warped_as_pixel_by_pixel():
    rng = np.random.default_rng(1)
    angle, scale, down, right = rng.uniform(-2, 2, 3), rng.uniform(0.5, 2, 3), rng.uniform(-3, 3, 3), rng.uniform(-3, 3, 3)
    expected = [by_hand(*each) for each in zip(IMAGES, angle, scale, down, right, strict=True)]
    np.testing.assert_allclose(warp(IMAGES, angle, scale, down, right), expected, atol=1e-5)


def test_jitter_stays_in_its_ranges():
    drawn = 2 * np.random.default_rng(5).random((3, 4)) - 1  # what jitter draws first from this seed
    expected = [
        by_hand(image, math.radians(15 * angle), 1 + 0.1 * scale, down, right)
        for image, (angle, scale, down, right) in zip(IMAGES, drawn, strict=True)
    ]
    np.testing.assert_allclose(jitter(IMAGES, np.random.default_rng(5)), expected, atol=1e-5)


def test_flip_crop_and_rotation_one_after_the_other():
    number = 40
    images = np.random.default_rng(2).random((number, 1, 8, 8)).astype(np.float32)
    drawn = np.random.default_rng(7).random((number, 4))
    expected = []
    for image, (mirrored, down, right, angle) in zip(images, drawn, strict=True):
        flipped = image[:, :, ::-1] if mirrored < 0.5 else image
        padded = np.pad(flipped[0], 4, mode="reflect")
        y, x = int(down * 9), int(right * 9)  # 9 places where a crop of 8 fits in 16
        expected.append(by_hand(padded[None, y : y + 8, x : x + 8], math.radians(15 * angle), 1, 0, 0))
    np.testing.assert_allclose(flip_crop_rotate(images, np.random.default_rng(7)), expected, atol=1e-5)
    assert {mirrored < 0.5 for mirrored in drawn[:, 0]} == {True, False}


@pytest.mark.parametrize("augment", [jitter, flip_crop_rotate])
def test_images_are_left_as_they_are_and_the_result_is_float32(augment):
    images = np.random.default_rng(2).random((4, 3, 8, 8)).astype(np.float32)
    before = images.copy()
    result = augment(images, np.random.default_rng(0))
    assert np.array_equal(images, before)
    assert (result.dtype, result.shape, result.flags.c_contiguous) == (np.float32, images.shape, True)

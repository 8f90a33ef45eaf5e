from __future__ import annotations

import json

import numpy as np
import pytest

from envs import ParameterError
from envs.streams import PermutedImages
from envs.streams.augmentation import jitter
from envs.streams.datasets import Images

# Seven images of 2×3; every pixel of image i is in 30 i … 30 i + 5, so that a permuted image still says which it is.
IMAGES = Images(
    (30 * np.arange(7)[:, None] + np.arange(6)).astype(np.uint8).reshape(7, 1, 2, 3), np.array([3, 1, 4, 1, 5, 9, 2])
)


def numbers(inputs):
    """Which image each example is."""
    return [int(value) for value in np.round(inputs * 255).min(axis=1) // 30]


def permutation_of(example):
    return (np.round(example * 255) % 30).astype(int).tolist()


def test_a_task_is_one_permutation_of_the_pixels():
    stream = PermutedImages(IMAGES, seed=0)
    permutations = []
    for task in range(20):
        assert stream.task == task
        inputs, labels = stream.draw(7)
        found = [permutation_of(example) for example in inputs]
        assert all(each == found[0] for each in found)
        assert sorted(found[0]) == list(range(6))
        permutations.append(tuple(found[0]))
        chosen = numbers(inputs)
        assert sorted(chosen) == list(range(7))  # each once
        assert labels.tolist() == IMAGES.labels[chosen].tolist()
        np.testing.assert_array_equal(np.sort(inputs), IMAGES.images[chosen].reshape(7, 6).astype(np.float32) / np.float32(255))
    # 20 of 720 permutations: that two are equal has probability 1 − Π(1 − k/720) ≈ 0.23 for some pair, three pairs hardly any.
    assert len(set(permutations)) >= 18
    assert permutations[0] != tuple(range(6))


def test_images_come_again_after_all_have_come():
    chosen = numbers(PermutedImages(IMAGES, seed=0, task_examples=17).draw(17)[0])
    assert sorted(chosen[:7]) == sorted(chosen[7:14]) == list(range(7))
    assert chosen[:7] != chosen[7:14]
    assert len(set(chosen[14:])) == 3


@pytest.mark.parametrize("augment", [None, jitter])
def test_examples_do_not_depend_on_how_many_are_drawn_at_a_time(augment):
    whole, parts = (PermutedImages(IMAGES, seed=5, task_examples=600, augment=augment) for _ in range(2))
    inputs, labels = whole.draw(1300)  # blocks of 500 and 100, and on to the third task
    drawn = [parts.draw(number) for number in (1, 498, 2, 99, 0, 300, 400)]
    assert np.array_equal(np.concatenate([x for x, _ in drawn]), inputs)
    assert np.array_equal(np.concatenate([y for _, y in drawn]), labels)
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int64)


def test_an_image_is_augmented_in_another_way_each_time():
    image = Images(np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8), np.array([0]))
    inputs, _ = PermutedImages(image, seed=0, task_examples=600, augment=jitter).draw(1_200)
    # Sorted, as the pixels of tasks lie in other places.
    assert len({np.sort(example).tobytes() for example in inputs}) == 1_200


def test_tasks_have_orders_of_their_own():
    stream = PermutedImages(IMAGES, seed=0)
    assert len({tuple(numbers(stream.draw(7)[0])) for _ in range(10)}) > 8  # of 5,040


def test_a_stream_goes_on_where_another_was():
    stream = PermutedImages(IMAGES, seed=5, augment=jitter)
    stream.draw(10)
    state = json.loads(json.dumps(stream.state_dict()))
    other = PermutedImages(IMAGES, seed=5, augment=jitter)
    other.load_state_dict(state)
    assert (other.examples, other.task) == (10, 1)
    for ours, theirs in zip(stream.draw(20), other.draw(20), strict=True):
        assert np.array_equal(ours, theirs)


def test_seeds_give_other_permutations_and_orders():
    first, second = (PermutedImages(IMAGES, seed=seed).draw(70)[0] for seed in (0, 1))
    assert numbers(first) != numbers(second)
    assert [permutation_of(x) for x in first[::7]] != [permutation_of(x) for x in second[::7]]


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"task_examples": 0}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ParameterError, match=next(iter(arguments))):
        PermutedImages(IMAGES, **{"seed": 0, **arguments})

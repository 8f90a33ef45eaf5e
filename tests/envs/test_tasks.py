from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest

from envs import ParameterError
from envs.streams import BinaryTasks, ClassIncremental, split
from envs.streams.datasets import DataError, ImageClasses, Images

# Image j of class k has the value 10 k + j everywhere.
LABELS = np.array([k for _ in range(6) for k in range(5)])
VALUES = 10 * LABELS + np.repeat(np.arange(6), 5)
IMAGES = Images(np.broadcast_to(VALUES[:, None, None, None], (30, 3, 2, 2)).astype(np.uint8), LABELS)


def binary(seed=0, **arguments):
    return BinaryTasks(ImageClasses.of(IMAGES), seed, **{"train": 3, "test": 2, **arguments})


def values(images):
    """The first pixel of each image, back from −1…1."""
    return np.round((images[:, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


def test_a_binary_task_has_the_first_images_of_two_classes_and_is_tested_on_the_next():
    task = next(binary())
    a, b = task.classes
    assert values(task.inputs) == [10 * a, 10 * a + 1, 10 * a + 2, 10 * b, 10 * b + 1, 10 * b + 2]
    assert values(task.test_inputs) == [10 * a + 3, 10 * a + 4, 10 * b + 3, 10 * b + 4]
    assert task.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert task.test_labels.tolist() == [0, 0, 1, 1]
    assert len(task.validation_inputs) == len(task.validation_labels) == 0
    assert (task.inputs.dtype, task.labels.dtype) == (np.float32, np.int64)


def test_the_values_of_a_byte_go_from_minus_one_to_one():
    images = Images(np.array([0, 51, 255, 0], np.uint8).reshape(4, 1, 1, 1), np.array([0, 0, 0, 1]))
    with pytest.raises(DataError, match="class '1' has 1 images, 3 are needed"):
        BinaryTasks(ImageClasses.of(images), 0, train=2, test=1)
    doubled = Images(np.concatenate([images.images[:3]] * 2), np.array([0, 0, 0, 1, 1, 1]))
    task = next(BinaryTasks(ImageClasses.of(doubled), 0, train=2, test=1))
    # 51 · 2/255 − 1 = −0.6
    np.testing.assert_allclose(task.inputs.ravel(), [-1, -0.6, -1, -0.6], atol=1e-6)
    np.testing.assert_allclose(task.test_inputs.ravel(), [1, 1], atol=1e-6)


def test_no_class_comes_twice_before_the_order_is_used_up_and_then_there_is_another():
    tasks = list(islice(binary(), 40))
    assert [task.number for task in tasks] == list(range(40))
    orders = [(first.classes, second.classes) for first, second in zip(tasks[::2], tasks[1::2], strict=True)]
    assert all(len({*first, *second}) == 4 for first, second in orders)  # of five classes, one is left over
    assert len(set(orders)) > 10
    assert {number for first, second in orders for number in (*first, *second)} == set(range(5))
    assert {task.classes[0] < task.classes[1] for task in tasks} == {True, False}  # either may be output 0


def incremental(seed=0, **arguments):
    train, test = Images(IMAGES.images[:20], LABELS[:20]), Images(IMAGES.images[20:], LABELS[20:])
    return ClassIncremental(train, test, seed, **{"classes_per_task": 2, "validation": 1, **arguments})


def test_classes_become_more_and_keep_their_places():
    stream = incremental()
    assert len(stream) == 2
    first, second = stream
    assert first.classes == second.classes[:2]
    assert len(set(second.classes)) == 4
    std = IMAGES.images[:20].std(dtype=np.float64)  # all channels are alike
    mean = IMAGES.images[:20].mean(dtype=np.float64)
    for task in (first, second):
        for inputs, labels, rows in (
            (task.inputs, task.labels, (1, 2, 3)),
            (task.validation_inputs, task.validation_labels, (0,)),  # the first of each class
            (task.test_inputs, task.test_labels, (4, 5)),
        ):
            found = np.round(inputs[:, 0, 0, 0] * std + mean).astype(int).tolist()
            assert found == [10 * k + row for row in rows for k in range(5) if k in task.classes]
            assert [task.classes[label] for label in labels] == [value // 10 for value in found]


def test_training_images_have_mean_zero_and_deviation_one_for_each_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4)) // np.array([1, 2, 4])[:, None, None]
    images = Images(pixels.astype(np.uint8), np.arange(8) % 2)
    (task,) = ClassIncremental(images, images, seed=0, classes_per_task=2, validation=0)
    np.testing.assert_allclose(task.inputs.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(task.inputs.std(axis=(0, 2, 3)), 1, atol=1e-6)


@pytest.mark.parametrize("make", [binary, incremental])
def test_a_stream_goes_on_where_another_was(make):
    stream = make(seed=3)
    next(stream)
    other = make(seed=3)
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    ours, theirs = next(stream), next(other)
    assert (ours.number, ours.classes) == (theirs.number, theirs.classes) == (1, ours.classes)
    for own, their in zip(ours[2:], theirs[2:], strict=True):
        assert np.array_equal(own, their)


@pytest.mark.parametrize("make", [binary, incremental])
def test_seeds_give_other_orders(make):
    assert len({next(make(seed=seed)).classes for seed in range(10)}) > 3


def test_a_share_of_each_class_is_set_aside():
    kept, taken = split(IMAGES, 0.5, seed=0)
    assert len(taken.labels) == 15
    assert all((taken.labels == k).sum() == 3 for k in range(5))
    together = sorted(values for part in (kept, taken) for values in part.images[:, 0, 0, 0].tolist())
    assert together == sorted(VALUES.tolist())
    assert not np.array_equal(taken.images, split(IMAGES, 0.5, seed=1)[1].images)


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (binary, {"train": 0}, "train"),
        (binary, {"test": 0}, "test"),
        (binary, {"seed": -1}, "seed"),
        (incremental, {"classes_per_task": 0}, "classes_per_task"),
        (incremental, {"validation": 4}, "validation must be less than the 4 images of a class, got 4"),
        (incremental, {"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_range_are_refused(make, arguments, words):
    with pytest.raises(ParameterError, match=words):
        make(**arguments)


def test_a_class_that_is_never_tested_is_named():
    without = Images(IMAGES.images[LABELS != 4], LABELS[LABELS != 4])
    with pytest.raises(ParameterError, match=r"test must have images of every class, it has none of \[4\]"):
        ClassIncremental(IMAGES, without, seed=0)


def test_images_that_are_alike_have_no_deviation_to_divide_by():
    pixels = np.array(IMAGES.images)
    pixels[:, 2] = 7
    with pytest.raises(ParameterError, match="train must have images that differ in channel 2, all are alike"):
        ClassIncremental(Images(pixels, LABELS), IMAGES, seed=0, validation=1)


@pytest.mark.parametrize("make", [binary, incremental])
def test_the_sizes_of_tasks_are_told_before_they_are_drawn(make):
    stream = make(seed=3)
    sizes = [size for size, tasks in stream.sizes(2) for _ in range(tasks)]
    assert sizes == [len(next(stream).inputs) for _ in range(2)]


def test_one_class_makes_no_pair():
    with pytest.raises(ParameterError, match="classes must be at least 2, got 1"):
        BinaryTasks(ImageClasses.of(Images(IMAGES.images[:1], LABELS[:1])), 0)

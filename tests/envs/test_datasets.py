"""Readers of image data sets, on bytes laid out by the official descriptions of their formats."""

from __future__ import annotations

import gzip
import math
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from data_files import cifar100, idx, imagenet_batch, npy, pixel, planes, python2_pickle
from PIL import Image

import envs
from envs.streams import datasets
from envs.streams.datasets import DataError, ImageClasses, Images
from envs.streams.tasks import split

# The image of number n, as pixel() says, channel by channel.
IMAGE = {n: np.array([[[pixel(n, c, y, x) for x in range(32)] for y in range(32)] for c in range(3)]) for n in range(12)}


def write_mnist(folder, images_name, labels_name, pack=lambda content: content):
    values = bytes(range(2 * 3 * 4))
    (folder / images_name).write_bytes(pack(idx(values, 2, 3, 4)))
    (folder / labels_name).write_bytes(pack(idx(bytes([7, 2]), 2)))


@pytest.mark.parametrize(
    ("images_name", "labels_name", "pack"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", bytes),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", gzip.compress),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte", bytes),
    ],
)
def test_mnist_is_read_from_its_idx_files(tmp_path, images_name, labels_name, pack):
    write_mnist(tmp_path, images_name, labels_name, pack)
    images, labels = datasets.mnist(tmp_path)
    # Bytes 0 to 23, row by row: image 1 begins at 12, its second row at 16.
    assert images.tolist() == [
        [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]],
        [[[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]],
    ]
    assert labels.tolist() == [7, 2]
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x00\x00", "is no IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "is no IDX file"),
        (b"\x00\x00\x0d\x03" + idx(b"", 1, 3, 4)[4:], "is no IDX file of bytes with 3 axes: it begins with 00000d03"),
        (idx(bytes(12), 12), "with 3 axes: it begins with 00000801"),
        (idx(bytes(23), 2, 3, 4), "has 23 bytes of data, not 2 × 3 × 4"),
        (idx(bytes(12), 1, 3, 4), "has 1 images of MNIST and 2 labels"),
        (idx(b"", 2, 0, 4), "has to have sizes of 1 or more, it has 2 × 0 × 4"),
        (idx(b"", 0, 3, 4), "has to have sizes of 1 or more, it has 0 × 3 × 4"),
    ],
)
def test_files_that_are_no_idx_files_are_named(tmp_path, content, words):
    write_mnist(tmp_path, "train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=words):
        datasets.mnist(tmp_path)


def test_labels_that_are_not_those_of_ten_digits_are_refused(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(bytes(24), 2, 3, 4))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(bytes([0, 12]), 2))
    with pytest.raises(DataError, match=re.escape("has to have labels from 0 to 9, it has [0, 12]")):
        datasets.mnist(tmp_path)


# Cut off; a block of a type that there is not (its first byte 0xff, behind a header of ten) in the middle.
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:10] + b"\xff" + content[11:]])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    write_mnist(tmp_path, "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", gzip.compress)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz' is no IDX file"):
        datasets.mnist(tmp_path)


def test_cifar_100_is_read_from_its_official_files(tmp_path):
    there = cifar100(tmp_path, train=7, test=3, classes=4)
    for folder in (tmp_path, there):
        assert datasets.cifar_classes(folder) == 100
        train, test = datasets.cifar(folder, 100)
        assert np.array_equal(train.images, [IMAGE[n] for n in range(7)])
        assert np.array_equal(test.images, [IMAGE[n] for n in range(7, 10)])
        assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 3, 0, 1, 2], [0, 1, 2])
        assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)


def test_cifar_10_is_read_from_its_five_batches(tmp_path):
    there = tmp_path / "cifar-10-batches-py"
    there.mkdir()
    for i in range(1, 6):
        labels = {"labels": [i, 0], "batch_label": [i]}
        (there / f"data_batch_{i}").write_bytes(python2_pickle(planes(range(2 * i - 2, 2 * i)), 2, labels))
    (there / "test_batch").write_bytes(python2_pickle(planes(range(10, 11)), 1, {"labels": [9]}))
    assert datasets.cifar_classes(tmp_path) == 10
    train, test = datasets.cifar(tmp_path, 10)
    assert np.array_equal(train.images, [IMAGE[n] for n in range(10)])
    assert train.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    assert np.array_equal(test.images, [IMAGE[10]])
    assert test.labels.tolist() == [9]


def test_the_batch_files_of_downsampled_imagenet_are_read(tmp_path):
    imagenet_batch(tmp_path / "train_data_batch_1", [3, 1, 3])
    imagenet_batch(tmp_path / "train_data_batch_2", [1, 3])
    classes = datasets.imagenet32(tmp_path)
    assert len(classes) == 2
    assert np.array_equal(classes.images(0, 2), [IMAGE[1]] * 2)
    assert np.array_equal(classes.images(1, 2), [IMAGE[3]] * 2)
    with pytest.raises(DataError, match="class '1' has 2 images, 3 are needed"):
        classes.images(0, 3)


def test_a_file_of_each_class_is_read(tmp_path):
    by_planes = planes(range(2))
    by_pixels = bytes(pixel(i, c, y, x) for i in range(2, 4) for y in range(32) for x in range(32) for c in range(3))
    (tmp_path / "10.npy").write_bytes(npy(by_planes, (2, 3, 32, 32)))
    (tmp_path / "9.npy").write_bytes(npy(by_pixels, (2, 32, 32, 3)))
    classes = datasets.imagenet32(tmp_path)
    assert np.array_equal(classes.images(0, 2), [IMAGE[2], IMAGE[3]])  # 9.npy comes before 10.npy
    assert np.array_equal(classes.images(1, 1), [IMAGE[0]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(bytes(3072 * 4), (1, 3, 32, 32), "<f4"), r"has to be uint8 of .*, it is float32 of \(1, 3, 32, 32\)"),
        (npy(bytes(3072), (3, 32, 32)), r"it is uint8 of \(3, 32, 32\)"),
        (npy(bytes(3000), (1, 3, 32, 32)), "0.npy' cannot be read"),
        (npy(b"", (1,), "|O") + pickle.dumps([print]), "0.npy' cannot be read: Array can't be memory-mapped: Python objects"),
        (b"", "0.npy' cannot be read"),
    ],
)
def test_a_file_that_holds_no_class_is_named(tmp_path, content, words):
    (tmp_path / "0.npy").write_bytes(content)
    with pytest.raises(DataError, match=words):
        datasets.imagenet32(tmp_path)


def test_a_folder_of_images_for_each_class_is_read(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    for name, picture in (("b/0.png", small), ("a/1.png", large), ("a/0.png", grey)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name)
    classes = datasets.imagenet32(tmp_path)
    assert np.array_equal(classes.images(1, 1)[0], small.transpose(2, 0, 1))
    first, second = classes.images(0, 2)
    assert np.array_equal(first, np.stack([grey] * 3))
    # Each pixel is the mean of four; the library rounds after the rows and again after the columns.
    mean = large.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(second - mean).max() <= 1
    (tmp_path / "a/.DS_Store").write_bytes(b"no picture")  # what systems and downloads leave there
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/index").write_bytes(b"")
    (tmp_path / "list.txt").write_text("a b")
    again = datasets.imagenet32(tmp_path)
    assert len(again) == 2
    assert np.array_equal(again.images(0, 2), [first, second])
    (tmp_path / "b/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png' is no image"):
        classes.images(1, 1)


def test_only_arrays_are_unpickled(tmp_path):
    there = cifar100(tmp_path, train=1, test=1)
    marker = tmp_path / "marker"
    # REDUCE of os.system with a command, where the dictionary should be.
    command = f"touch {marker}".encode()
    (there / "train").write_bytes(b"\x80\x02cposix\nsystem\nU" + bytes([len(command)]) + command + b"\x85R.")
    with pytest.raises(DataError, match=r"train' cannot be read: it asks for posix\.system"):
        datasets.cifar(tmp_path, 100)
    assert not marker.exists()


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:500], lambda content: b"\x80\x02]."])
def test_a_damaged_file_of_cifar_is_named(tmp_path, damage):
    path = cifar100(tmp_path, train=1, test=1) / "train"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="train' cannot be read"):
        datasets.cifar(tmp_path, 100)


def test_a_pickle_without_the_labels_is_no_file_of_cifar(tmp_path):
    path = cifar100(tmp_path, train=1, test=1) / "train"
    path.write_bytes(python2_pickle(planes(range(1)), 1, {"labels": [0]}))
    with pytest.raises(DataError, match="train' is no file of CIFAR: 'fine_labels'"):
        datasets.cifar(tmp_path, 100)


def test_as_many_labels_as_images_are_needed(tmp_path):
    path = cifar100(tmp_path, train=1, test=1) / "train"
    path.write_bytes(python2_pickle(planes(range(2)), 2, {"fine_labels": [0]}))
    with pytest.raises(DataError, match="train' is no file of CIFAR: it has 2 images and 1 labels"):
        datasets.cifar(tmp_path, 100)
    (tmp_path / "train_data_batch_1").write_bytes(python2_pickle(planes(range(2)), 2, {"labels": [1, 2, 3]}))
    with pytest.raises(DataError, match=r"train_data_batch_1' is no batch of .*: it has 2 images and 3 labels"):
        datasets.imagenet32(tmp_path)


@pytest.mark.parametrize(
    ("data", "labels", "words"),
    [
        (np.full((2, 3072), 0.5), [0, 1], "its data have to be whole numbers, they are float64"),
        (np.full((2, 3072), 300), [0, 1], "its data have to be from 0 to 255, they are from 300 to 300"),
        (np.full((2, 3072), -1), [0, 1], "its data have to be from 0 to 255, they are from -1 to -1"),
        ([], [], "it has no data"),
        (np.arange(6144) % 256, [0.5, 1], "its labels have to be whole numbers, they are float64"),
        (np.arange(6144) % 256, [-1, 98], "its labels have to be .*, they are from -1 to 98"),
    ],
)
@pytest.mark.parametrize("name", ["cifar-100-python/train", "train_data_batch_1"])
def test_data_and_labels_that_are_no_bytes_and_no_numbers_of_classes_are_refused(tmp_path, name, data, labels, words):
    cifar100(tmp_path, train=2, test=2)
    (tmp_path / name).write_bytes(pickle.dumps({"data": data, "labels": labels, "fine_labels": labels}, protocol=2))
    with pytest.raises(DataError, match=rf"{name}' is no .*: {words}"):
        datasets.cifar(tmp_path, 100) if "cifar" in name else datasets.imagenet32(tmp_path)


def test_bytes_in_a_wider_type_are_read(tmp_path):
    there = cifar100(tmp_path, train=2, test=2)
    data = np.array([IMAGE[0].ravel(), IMAGE[1].ravel()], np.int64)
    (there / "train").write_bytes(pickle.dumps({"data": data, "fine_labels": np.array([7, 99])}, protocol=2))
    train, _ = datasets.cifar(tmp_path, 100)
    assert np.array_equal(train.images, [IMAGE[0], IMAGE[1]])
    assert (train.images.dtype, train.labels.tolist()) == (np.uint8, [7, 99])


def test_a_label_that_no_class_of_cifar_has_is_refused(tmp_path):
    cifar100(tmp_path, train=101, test=2, classes=101)
    with pytest.raises(
        DataError, match="train' is no file of CIFAR: its labels have to be from 0 to 99, they are from 0 to 100"
    ):
        datasets.cifar(tmp_path, 100)


def test_images_of_cifar_that_are_all_alike_are_refused(tmp_path):
    there = cifar100(tmp_path, train=2, test=2)
    alike = np.stack([IMAGE[0], IMAGE[1]])
    alike[:, 1] = 7
    (there / "train").write_bytes(pickle.dumps({"data": alike.reshape(2, -1), "fine_labels": [0, 1]}, protocol=2))
    with pytest.raises(DataError, match="train' is no file of CIFAR: channel 1 has one value in all of its images"):
        datasets.cifar(tmp_path, 100)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pictures_of_more_than_eight_bits_are_refused(tmp_path, mode):
    values = np.arange(0, 65_536, 64).reshape(32, 32)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])).save(
            tmp_path / name / "0.tif"
        )
    with pytest.raises(DataError, match=rf"0\.tif' has to have 8 bits a channel, as of mode L or RGB; it is of mode {mode}"):
        datasets.imagenet32(tmp_path).images(0, 1)


def write_classes_of_batches(folder, counts):
    imagenet_batch(folder / "train_data_batch_1", [label for label, count in enumerate(counts) for _ in range(count)])


def write_classes_as_files(folder, counts):
    for label, count in enumerate(counts):
        (folder / f"{label}.npy").write_bytes(npy(planes(range(count)), (count, 3, 32, 32)))


def write_classes_as_folders(folder, counts):
    for label, count in enumerate(counts):
        (folder / str(label)).mkdir()
        for number in range(count):
            (folder / str(label) / f"{number}.png").write_bytes(b"is not opened")


@pytest.mark.parametrize(
    ("write", "name"), [(write_classes_of_batches, "2"), (write_classes_as_files, "2.npy"), (write_classes_as_folders, "2")]
)
def test_a_class_with_too_few_images_is_found_before_any_is_read(tmp_path, write, name):
    write(tmp_path, [3, 3, 2])
    classes = datasets.imagenet32(tmp_path)
    classes.check(2)
    with pytest.raises(DataError, match=rf"class '{re.escape(name)}' has 2 images, 3 are needed"):
        classes.check(3)


def test_data_that_are_not_there_say_what_to_fetch_and_where_to_put_it(tmp_path):
    for read, words in (
        (datasets.mnist, "has no train-images-idx3-ubyte: fetch MNIST's IDX files from http"),
        (
            datasets.cifar_classes,
            "has neither cifar-100-python nor cifar-10-batches-py: fetch the python version from https://www",
        ),
        (datasets.imagenet32, "has none of train_data_batch_1 to _10 .*https://image-net.org"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            read(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels = datasets.digits()
    assert images.shape == (1797, 1, 8, 8)
    # 0 → 0, 16 → 255; 8 of 16 is 127.5, which rounds to the even 128.
    table = {0: 0, 4: 64, 8: 128, 16: 255}
    for value, stretched in table.items():
        assert set(images[:, 0][load_digits().images == value]) == {stretched}
    assert np.array_equal(labels, load_digits().target)


def test_classes_are_those_of_the_labels():
    images = Images(np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), np.array([4, 1, 4, 4, 1]))
    classes = ImageClasses.of(images)
    assert classes.images(0, 2).ravel().tolist() == [1, 4]
    assert classes.images(1, 2).ravel().tolist() == [0, 2]


def test_nothing_is_imported_or_downloaded_before_it_is_asked_for():
    code = "import sys, envs.streams; print([m for m in ('sklearn', 'PIL', 'urllib.request') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(share):
    images = Images(np.zeros((4, 2, 2), np.uint8), np.array([0, 0, 1, 1]))
    with pytest.raises(envs.ParameterError, match="share must be a finite number from 0 to 1"):
        split(images, share, seed=0)

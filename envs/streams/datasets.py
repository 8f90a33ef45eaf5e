"""Readers of image data sets, as people have them on disk. Nothing is downloaded.

Pickled files are read with an unpickler that knows NumPy's arrays only: one from a stranger runs no code.
"""

from __future__ import annotations

import gzip
import math
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class DataError(ValueError):
    """Data that are not there or not what they should be. One line: what to fetch, from whom, where to put it."""


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: ``(n, channels, height, width)``, uint8.
        labels: ``(n,)``, int64.
    """

    images: Pixels
    labels: NDArray[np.int64]


class ImageClasses:
    """Images by class, read when asked for.

    Args:
        readers: For each class a function that reads its first images, as many as it is asked for.
        names: What each class is called in an error.
        sizes: How many images each class has.
    """

    def __init__(self, readers: list[Callable[[int], Pixels]], names: list[str], sizes: list[int]) -> None:
        self._readers = readers
        self._names = names
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._readers)

    def images(self, number: int, count: int) -> Pixels:
        """The first images of a class: ``(count, channels, height, width)``.

        Args:
            number: Of the class, from 0.
            count: How many.

        Raises:
            DataError: The class has fewer.
        """
        self._check(number, count)
        return self._readers[number](count)

    def check(self, count: int) -> None:
        """Refuses classes of which one has too few images; reads none of them.

        Args:
            count: How many are needed of each.

        Raises:
            DataError: A class has fewer.
        """
        for number in range(len(self)):
            self._check(number, count)

    def _check(self, number: int, count: int) -> None:
        if self._sizes[number] < count:
            raise DataError(f"class '{self._names[number]}' has {self._sizes[number]} images, {count} are needed")

    @classmethod
    def of(cls, images: Images) -> ImageClasses:
        """The classes of some images, in the order of their labels."""
        labels, sizes = np.unique(images.labels, return_counts=True)

        def reader(label: int) -> Callable[[int], Pixels]:
            chosen = np.flatnonzero(images.labels == label)
            return lambda count: images.images[chosen[:count]]

        return cls([reader(label) for label in labels], [str(label) for label in labels], sizes.tolist())


def digits() -> Images:
    """scikit-learn's handwritten digits: 1,797 images of 8×8, their values 0 to 16 stretched to 0 to 255.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits come with scikit-learn: pip install 'continual-backprop[data]'") from error
    bunch = load_digits()
    return Images(np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None], bunch.target.astype(np.int64))


def mnist(folder: Path) -> Images:
    """The training images of MNIST, from its own IDX files, plain or gzipped.

    Args:
        folder: Has ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, also with ``.gz`` or a dot before ``idx``.

    Raises:
        DataError: They are not there, or no such files.
    """
    images, labels = (_read_idx(folder, name, axes) for name, axes in (("train-images", 3), ("train-labels", 1)))
    if len(images) != len(labels):
        raise DataError(f"'{folder}' has {len(images)} images of MNIST and {len(labels)} labels")
    if labels.max() > 9:
        raise DataError(f"'{folder}' has to have labels from 0 to 9, it has {sorted(set(labels.tolist()))}")
    return Images(images[:, None], labels.astype(np.int64))


def _read_idx(folder: Path, name: str, axes: int) -> Pixels:
    names = [f"{name}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    path = next((folder / each for each in names if (folder / each).is_file()), None)
    if path is None:
        raise DataError(
            f"'{folder}' has no {names[0]}: fetch MNIST's IDX files from http://yann.lecun.com/exdb/mnist/ or a mirror, as "
            f"https://ossci-datasets.s3.amazonaws.com/mnist/, and put them there, gzipped or not"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # Two zero bytes, 8 for unsigned bytes, the number of axes, the size of each: all big-endian.
        zero, kind, found = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"'{path}' is no IDX file: {error}") from error
    if (zero, kind, found) != (0, 8, axes):
        raise DataError(f"'{path}' is no IDX file of bytes with {axes} axes: it begins with {content[:4].hex()}")
    if 0 in shape:
        raise DataError(f"'{path}' has to have sizes of 1 or more, it has {' × '.join(map(str, shape))}")
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if len(data) != np.prod(shape):
        raise DataError(f"'{path}' has {len(data)} bytes of data, not {' × '.join(map(str, shape))}")
    return data.reshape(shape)


def cifar_classes(folder: Path) -> int:
    """Which CIFAR is in a folder: 100 or 10.

    Raises:
        DataError: Neither.
    """
    for classes in (100, 10):
        if _cifar_folder(folder, classes) is not None:
            return classes
    raise DataError(
        f"'{folder}' has neither cifar-100-python nor cifar-10-batches-py: fetch the python version from "
        f"https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there"
    )


def cifar(folder: Path, classes: int) -> tuple[Images, Images]:
    """CIFAR-100 or CIFAR-10 from the official files of its python version.

    Args:
        folder: ``cifar-100-python`` or ``cifar-10-batches-py``, or the folder it is in.
        classes: 100 or 10.

    Returns:
        Training and test images, 3×32×32.

    Raises:
        DataError: The files are not there, or no such files: images of uint8, labels from 0 on, fewer than ``classes``.
    """
    found = _cifar_folder(folder, classes)
    if found is None:
        raise DataError(f"'{folder}' has no CIFAR-{classes}; it has to have {_CIFAR[classes][0]}")
    _, train, test, labels = _CIFAR[classes]
    parts = [_read_cifar(found / name, labels, classes) for name in train]
    images, of_images = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return Images(images, of_images), _read_cifar(found / test, labels, classes)


_CIFAR: dict[int, tuple[str, list[str], str, str]] = {
    100: ("cifar-100-python", ["train"], "test", "fine_labels"),
    10: ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "labels"),
}


def _cifar_folder(folder: Path, classes: int) -> Path | None:
    name, train, *_ = _CIFAR[classes]
    return next((path for path in (folder / name, folder) if (path / train[0]).is_file()), None)


def _read_cifar(path: Path, labels: str, classes: int) -> Images:
    content = _unpickle(path)
    try:
        images = _of_rows(content["data"], content[labels], classes - 1)
        if (constant := np.ptp(images.images, axis=(0, 2, 3)) == 0).any():
            raise ValueError(f"channel {int(constant.argmax())} has one value in all of its images")
        return images
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{path}' is no file of CIFAR: {error}") from error


def _of_rows(rows: Any, labels: Any, last: float = math.inf) -> Images:
    """Images of which each is a row: 1,024 values of red, of green, of blue, each row by row; labels from 0 to the last."""
    pixels = _whole_numbers("data", rows, 255).astype(np.uint8).reshape(-1, 3, 32, 32)
    images = Images(pixels, _whole_numbers("labels", labels, last).astype(np.int64))
    if images.labels.shape != (len(images.images),):
        raise ValueError(f"it has {len(images.images)} images and {images.labels.size} labels")
    return images


def _whole_numbers(name: str, values: Any, most: float) -> NDArray[Any]:
    found = np.asarray(values)
    if not found.size:
        raise ValueError(f"it has no {name}")
    if found.dtype.kind not in "iu":
        raise ValueError(f"its {name} have to be whole numbers, they are {found.dtype}")
    if found.min() < 0 or found.max() > most:
        raise ValueError(
            f"its {name} have to be {f'from 0 to {most}' if most < math.inf else '0 or more'}, "
            f"they are from {found.min()} to {found.max()}"
        )
    return found


def imagenet32(folder: Path) -> ImageClasses:
    """ImageNet at 32×32, in any of three layouts.

    - The batch files of downsampled ImageNet, ``train_data_batch_1`` to ``…_10`` (Chrabaszcz et al., arXiv 1707.08819); those
      that are there are read.
    - One file for each class, ``0.npy``, ``1.npy``, …: ``(n, 32, 32, 3)`` or ``(n, 3, 32, 32)``, uint8.
    - One folder of images for each class, as for torchvision's ``ImageFolder``; other sizes are averaged down to 32×32. Other
      files and folders beside them are passed over.

    Args:
        folder: Where they are.

    Raises:
        DataError: None of them is there, or files that cannot be read; of images those are found when they are.
    """
    if not folder.is_dir():
        raise DataError(f"'{folder}' is no folder; it has to have {_IMAGENET}")
    if batches := sorted(folder.glob("train_data_batch_*")):
        return ImageClasses.of(_read_batches(batches))
    files = sorted((path for path in folder.glob("*.npy") if path.stem.isdigit()), key=lambda path: int(path.stem))
    if files:
        return ImageClasses(
            [lambda count, path=path: _open_npy(path)[:count] for path in files],  # type: ignore[misc]
            [path.name for path in files],
            [len(_open_npy(path)) for path in files],
        )
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and any(map(_is_picture, path.iterdir())))
    if len(folders) > 1:
        return ImageClasses(
            [lambda count, path=path: _read_pictures(path, count) for path in folders],  # type: ignore[misc]
            [path.name for path in folders],
            [sum(map(_is_picture, path.iterdir())) for path in folders],
        )
    raise DataError(f"'{folder}' has none of {_IMAGENET}")


_IMAGENET = (
    "train_data_batch_1 to _10 (downsampled ImageNet 32x32 from https://image-net.org/download-images.php), a file 0.npy, "
    "1.npy, … for each class, or a folder of images for each class"
)


def _read_batches(paths: list[Path]) -> Images:
    batches = []
    for path in paths:
        content = _unpickle(path)
        try:
            batches.append(_of_rows(content["data"], content["labels"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"'{path}' is no batch of downsampled ImageNet: {error}") from error
    return Images(np.concatenate([each.images for each in batches]), np.concatenate([each.labels for each in batches]))


def _open_npy(path: Path) -> Pixels:
    """The images of a file, which are read from it where they are used."""
    try:
        images: Any = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
    if images.ndim == 4 and images.dtype == np.uint8 and images.shape[1:] in ((32, 32, 3), (3, 32, 32)):
        pixels: Pixels = images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)
        return pixels
    raise DataError(f"'{path}' has to be uint8 of (n, 32, 32, 3) or (n, 3, 32, 32), it is {images.dtype} of {images.shape}")


def _is_picture(path: Path) -> bool:
    """Whether torchvision's ``ImageFolder`` takes a file for an image; others, as those that systems leave, lie beside them."""
    return path.suffix.lower() in (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _read_pictures(folder: Path, count: int) -> Pixels:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError("images are read by pillow: pip install 'continual-backprop[data]'") from error
    pictures = []
    for path in sorted(filter(_is_picture, folder.iterdir()))[:count]:
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"'{path}' has to have 8 bits a channel, as of mode L or RGB; it is of mode {image.mode}")
                rgb = image.convert("RGB")
                small = rgb if rgb.size == (32, 32) else rgb.resize((32, 32), Image.Resampling.BOX)
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"'{path}' is no image: {error}") from error
        pictures.append(np.asarray(small).transpose(2, 0, 1))
    return np.stack(pictures)


class _ArraysOnly(pickle.Unpickler):
    """Reads what arrays, lists and dictionaries need."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
            ("_codecs", "encode"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(path: Path) -> dict[str, Any]:
    """A pickled dictionary of Python 2 or 3, its keys as strings."""
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    except Exception as error:  # whatever damage makes the unpickler raise
        raise DataError(
            f"'{path}' cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error

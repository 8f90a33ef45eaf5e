"""Data sets in the bytes that their official descriptions give, laid out here by hand: no writer of ours, nor of NumPy's.

- IDX: http://yann.lecun.com/exdb/mnist/: a magic number (0, 0, type, axes), the size of each axis as four bytes with the high
  byte first, then the data row by row.
- CIFAR: https://www.cs.toronto.edu/~kriz/cifar.html: a dictionary pickled by Python 2 (protocol 2, its strings bytes); ``data``
  has a row of 3,072 uint8 for each image: 1,024 of red, then green, then blue, each row by row.
- Downsampled ImageNet: https://patrykchrabaszcz.github.io/Imagenet32/: the same, labels from 1 to 1,000.
- NPY: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import struct
from pathlib import Path


def idx(values: bytes, *shape: int) -> bytes:
    """An IDX file of unsigned bytes, whose type is 0x08."""
    return bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + values


def npy(values: bytes, shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """An NPY file of version 1.0: the header is a literal, padded by spaces so that the data begin at a multiple of 64."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


def python2_pickle(values: bytes, rows: int, labels: dict[str, list[int]]) -> bytes:
    """A dictionary of ``data``, uint8 of shape ``(rows, …)``, and lists of labels, as Python 2 pickled it with protocol 2.

    The opcodes are those of :mod:`pickletools`. An array is ``_reconstruct(ndarray, (0,), 'b')``, then its state: version,
    shape, dtype, order, bytes.
    """
    dtype = (
        b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R"  # dtype('u1', 0, 1)
        # its state: version 3, byte order '|', None three times, -1, -1, 0
        + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )  # fmt: skip
    shape = b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", len(values) // rows) + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
        b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(values)) + values + b"tb"
    )  # fmt: skip
    pickled = b"\x80\x02}(" + text("data") + array
    for name, numbers in labels.items():
        pickled += text(name) + b"](" + b"".join(b"M" + struct.pack("<H", number) for number in numbers) + b"e"
    return pickled + b"u."


def text(string: str) -> bytes:
    """A string of Python 2: SHORT_BINSTRING, its length, its bytes."""
    return b"U" + bytes([len(string)]) + string.encode()


def pixel(image: int, channel: int, row: int, column: int) -> int:
    """A value that tells where it belongs."""
    return (101 * image + 67 * channel + 5 * row + column) % 256


def planes(images: range, size: int = 32) -> bytes:
    """Colour images, channel by channel, each row by row."""
    places = range(size)
    return bytes(pixel(i, c, y, x) for i in images for c in range(3) for y in places for x in places)


def cifar100(folder: Path, train: int, test: int, classes: int = 100) -> Path:
    """``cifar-100-python`` with so many images, whose labels go round."""
    there = folder / "cifar-100-python"
    there.mkdir(parents=True)
    for name, first, count in (("train", 0, train), ("test", train, test)):
        fine = [i % classes for i in range(count)]
        labels = {"coarse_labels": [number // 5 for number in fine], "fine_labels": fine}
        (there / name).write_bytes(python2_pickle(planes(range(first, first + count)), count, labels))
    return there


def imagenet_batch(path: Path, labels: list[int]) -> None:
    """A batch file of downsampled ImageNet 32×32; image i of the file is image ``labels[i]`` of :func:`pixel`."""
    values = b"".join(planes(range(label, label + 1)) for label in labels)
    path.write_bytes(python2_pickle(values, len(labels), {"labels": labels}))

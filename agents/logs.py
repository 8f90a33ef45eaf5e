"""Where a run logs: TensorBoard, and ``progress.csv``, which a resumed run continues."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat

from agents.run_folder import RunFolder


class ContinuedCsv(CSVOutputFormat):
    """SB3's CSV log, but an existing file is continued instead of overwritten.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            super().__init__(str(path))
            return
        self.file = path.open("r+")
        self.separator, self.quotechar = ",", '"'
        header = self.file.readline().rstrip("\n")
        self.keys = header.split(self.separator) if header else []
        self.file.seek(0, 2)


def make_logger(folder: RunFolder) -> Logger:
    """The logger of a run, for ``model.set_logger``."""
    return Logger(str(folder.path), [ContinuedCsv(folder.progress), TensorBoardOutputFormat(str(folder.path))])

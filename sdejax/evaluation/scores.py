"""Scores of settings, gathered from the rows of a run, and the choice of the best setting of each method.

The best setting is chosen on one half of the edits. It is reported on the other half, on which nothing was chosen. To
halve the edits, each family is sorted by the SHA-256 of the names, separately for seen and unseen targets. The score of
an edit is the mean over its seeds.
"""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sdejax.evaluation.edits import EditCase
from sdejax.evaluation.metrics import Masked
from sdejax.evaluation.run import SettingRow


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a score is shown: its title, whether higher values are better, and the number of digits."""

    title: str
    higher_is_better: bool
    digits: int = 3


METRICS: Mapping[str, Metric] = {
    "l1": Metric("L1 to the truth", False, 4),
    "psnr": Metric("PSNR, dB", True, 2),
    "ssim": Metric("SSIM", True),
    "nearest": Metric("nearest is the truth", True),
    "kept": Metric("L1 to the source where it should stay", False, 4),
    "change": Metric("L1 to the source", False, 4),
    "clip": Metric("CLIP score", True, 2),
    "dino_truth": Metric("DINO to the truth", True),
    "dino_source": Metric("DINO to the source", True),
    "lpips_truth": Metric("LPIPS to the truth", False),
    "lpips_source": Metric("LPIPS to the source", False),
}


@dataclasses.dataclass(frozen=True)
class SettingScores:
    """The scores of a method at a strength and a guidance, for each edit; means over the seeds.

    The other fields are as in `SettingRow`.
    """

    method: str
    strength: float
    guidance: float
    evaluations: int
    seconds: float | None
    first_seconds: float | None
    scores: Mapping[str, Masked]

    def mean(self, metric: str, among: np.ndarray) -> float | None:
        """The mean over the edits of `among` (n,), bool, that have the score; None if no edit has it."""
        exists = self.scores[metric].exists & among
        return float(self.scores[metric].values[exists].mean()) if exists.any() else None


def gather(rows: Sequence[SettingRow]) -> list[SettingScores]:
    """Join the rows of `evaluate` that differ only in the seed, in the order in which they appear.

    The seconds are the median over the seeds. Those of a first batch are the largest among the method's programs.
    """
    groups: dict[tuple[str, float, float], list[SettingRow]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["strength"], row["guidance"]].append(row)
    first: dict[str, float | None] = defaultdict(lambda: None)
    for row in rows:
        if row["first_seconds"] is not None:
            first[row["method"]] = max(first[row["method"]] or 0.0, row["first_seconds"])
    found = []
    for (method, strength, guidance), same in groups.items():
        scores = {}
        for metric in same[0]["scores"]:
            columns = [row["scores"][metric] for row in same]
            exists = np.array([value is not None for value in columns[0]])
            values = np.array([[0.0 if value is None else value for value in column] for column in columns])
            scores[metric] = Masked(values.mean(0), exists)
        seconds = [row["seconds"] for row in same if row["seconds"] is not None]
        times = float(np.median(seconds)) if seconds else None, first[method]
        found.append(SettingScores(method, strength, guidance, same[0]["evaluations"], *times, scores))
    return found


def choosing_half(edits: Sequence[EditCase]) -> np.ndarray:
    """Halve the edits: (n,), bool. Settings are chosen on the edits with True, and reported on the others."""
    order = sorted(range(len(edits)), key=lambda i: (edits[i].family, str(edits[i].unseen), _hash(edits[i].name)))
    choosing = np.zeros(len(edits), bool)
    choosing[order[::2]] = True
    return choosing


def _hash(name: str) -> str:
    return hashlib.sha256(f"half of {name}".encode()).hexdigest()


def criterion(settings: Sequence[SettingScores]) -> str | None:
    """The metric that decides which setting is best: L1 to the truth, else the CLIP score; None without both.

    L1 to the truth penalises both too little editing and changes where there should be none. The CLIP score penalises
    only the former.
    """
    return next((metric for metric in ("l1", "clip") if metric in settings[0].scores), None)


def best_settings(settings: Sequence[SettingScores], by: str, choosing: np.ndarray) -> dict[str, SettingScores]:
    """The best setting of each method by the metric `by` on the edits of `choosing`; the first one among equals."""
    sign = -1.0 if METRICS[by].higher_is_better else 1.0
    best: dict[str, tuple[float, SettingScores]] = {}
    for setting in settings:
        mean = setting.mean(by, choosing)
        if mean is not None and (setting.method not in best or sign * mean < best[setting.method][0]):
            best[setting.method] = sign * mean, setting
    return {method: setting for method, (_, setting) in best.items()}


def middle_settings(settings: Sequence[SettingScores]) -> dict[str, SettingScores]:
    """The middle setting of each method, for runs in which no metric decides which setting is best."""
    methods: dict[str, list[SettingScores]] = defaultdict(list)
    for setting in settings:
        methods[setting.method].append(setting)
    return {method: several[(len(several) - 1) // 2] for method, several in methods.items()}


def difference(one: SettingScores, other: SettingScores, metric: str, among: np.ndarray) -> np.ndarray:
    """A metric of `one` minus that of `other` for each edit that has both.

    Such differences are needed because edits differ more than methods do.
    """
    exists = one.scores[metric].exists & other.scores[metric].exists & among
    return one.scores[metric].values[exists] - other.scores[metric].values[exists]

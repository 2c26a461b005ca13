"""The run of methods over edits and its report: nothing is selected by hand, and missing scores are not averaged."""

import dataclasses
import json
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sdejax as sj
from sdejax.edit.methods import METHODS
from sdejax.evaluation.metrics import Candidates, l1
from sdejax.evaluation.report import report
from sdejax.evaluation.run import UNEDITED, Scorers, Setting, SettingGrid, evaluate, shown_edits
from sdejax.evaluation.scores import best_settings, choosing_half, criterion, gather
from sdejax.media.images import save_png, to_image
from sdejax.pytrees import pytree
from sdejax.text.vocabulary import Vocabulary
from tests.tiny import tiny_edits

ONE = SettingGrid(("sync_sde",), (0.6,), (1.0,), (0,), steps=2)


@dataclasses.dataclass(frozen=True)
class _Words:
    """A model in closed form, with what an evaluation needs. A prompt is the mean colour of its images."""

    sde: sj.SDE = sj.VPSDE()
    conditioner: Vocabulary = Vocabulary(("any",), 1)
    source: str = "words"
    broken: float = 0.0

    def denoiser(self, prompt=None, guidance=None):
        colours = [np.random.default_rng(list(text.encode())).uniform(-1, 1, (1, 1, 3)) for text in prompt or [""]]
        conditional = sj.GaussianDenoiser(self.sde, np.stack(colours).astype(np.float32) + self.broken, 0.4)
        if guidance is None:
            return conditional
        return sj.GuidedDenoiser(conditional, sj.GaussianDenoiser(self.sde, 0.0, 0.6), np.float32(guidance))


@pytest.fixture(scope="module")
def model():
    return _Words()


def truths(edits):
    return np.stack([edit.truth for edit in edits if edit.truth is not None])


def floats(scores):
    """Scores as numbers; None would be nan."""
    return np.asarray(scores, np.float64)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run of two methods, strengths, guidances and seeds over four edits: its folder, arguments and rows."""
    out = tmp_path_factory.mktemp("run")
    grid = SettingGrid(("sdedit", "ode_inversion"), (0.4, 0.8), (1.0, 2.0), (0, 3), steps=2, batch=3)
    edits = tiny_edits()
    scorers = Scorers(Candidates.of(truths(edits)))
    return out, grid, edits, scorers, evaluate(model, edits, grid, out, scorers)


@pytree
@dataclasses.dataclass(frozen=True)
class _Counted:
    """A denoiser that reports each of its calls."""

    count: Callable[[], None] = dataclasses.field(metadata={"static": True})

    def __call__(self, t, x):
        jax.debug.callback(self.count, ordered=False)
        return 0.5 * x


class _Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1


@pytest.mark.parametrize("name", METHODS)
def test_a_method_makes_as_many_evaluations_as_it_states(name):
    """The calls are counted while the program runs. Rejects a formula that does not fit the editor."""
    source, target = _Counter(), _Counter()
    method, steps = METHODS[name], 3
    result = method.edit(
        _Counted(source),
        _Counted(target),
        sj.VPSDE(),
        np.zeros((1, 2, 2, 1), np.float32),
        sj.keys([0]),
        strength=0.5,
        mask=None,
        sampler=sj.Sampler(steps),
    )
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert (source.calls, target.calls) == method.calls(steps)
    assert method.evaluations(steps, 1.0) == source.calls + target.calls
    assert method.evaluations(steps, 2.0) == source.calls + 2 * target.calls


def test_the_unedited_source_has_the_distances_of_source_and_truth(finished):
    """So each score of the table has a reference that needs no method."""
    _, _, edits, _, rows = finished
    scores = rows[0]["scores"]
    assert rows[0]["method"] == UNEDITED
    expected = l1(np.stack([e.source for e in edits]), truths(edits))
    np.testing.assert_allclose(floats(scores["l1"]), expected, rtol=1e-6)
    assert scores["change"] == scores["kept"] == [0.0] * len(edits)


def test_a_method_that_gives_the_truth_has_the_best_of_every_score():
    edits = tiny_edits()
    truth = truths(edits)
    scorers = Scorers(Candidates.of(np.concatenate([truth, np.stack([edit.source for edit in edits])])))
    scores = scorers.score(edits, truth)
    assert scores["l1"] == [0.0] * 4 and scores["kept"] == [0.0] * 4 and scores["nearest"] == [1.0] * 4
    np.testing.assert_allclose(floats(scores["ssim"]), 1.0, atol=1e-6)
    # Values beyond [-1, 1] are clipped, as in files.
    assert scorers.score(edits, np.where(truth > 0.99, 3.0, truth))["nearest"] == [1.0] * 4


def test_each_setting_has_a_row_and_only_random_methods_have_several_seeds(finished):
    rows = finished[-1]
    settings = [(row["method"], row["strength"], row["guidance"], row["seed"]) for row in rows[1:]]
    expected = {("sdedit", s, g, k) for s in (0.4, 0.8) for g in (1.0, 2.0) for k in (0, 3)}
    expected |= {("ode_inversion", s, g, 0) for s in (0.4, 0.8) for g in (1.0, 2.0)}
    assert len(settings) == len(expected) and set(settings) == expected
    assert {row["evaluations"] for row in rows[1:]} == {2, 4, 3, 5}
    assert [row for row in rows[1:] if row["first_seconds"] is not None] == [
        row for row in rows[1:] if row["strength"] == 0.4 and row["seed"] == 0
    ]
    for row in rows[1:]:
        assert all(value is not None for values in row["scores"].values() for value in values)


def test_a_result_depends_only_on_its_edit_and_seed(model, finished, tmp_path):
    """The scores are the same with another batch size, other edits and another order.

    The tolerance 1e-4 is needed because programs of other batch sizes round differently. Rejects keys that depend on
    the position of an edit, which change a score by its spread over seeds, 0.005 and more.
    """
    _, grid, edits, scorers, rows = finished
    few = [edits[2], edits[0]]
    again = evaluate(model, few, dataclasses.replace(grid, methods=("sdedit",), batch=2), tmp_path, scorers)
    spread = 0.0
    for row in again[1:]:
        same, other = (
            next(r for r in rows[1:] if _setting(r) == (*_setting(row)[:3], seed))
            for seed in (row["seed"], 3 - row["seed"])
        )
        for metric in ("l1", "kept"):
            scores = same["scores"][metric]
            np.testing.assert_allclose(floats(row["scores"][metric]), [scores[2], scores[0]], atol=1e-4)
            spread = max(spread, abs(scores[0] - other["scores"][metric][0]))
    assert spread > 0.005


def _setting(row):
    return tuple(row[field.name] for field in dataclasses.fields(Setting))


def test_a_killed_run_continues_after_its_last_row(model, finished, tmp_path):
    out, grid, edits, scorers, rows = finished
    lines = (out / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:-2]) + lines[-2][:40])
    told = []
    again = evaluate(model, edits, grid, tmp_path, scorers, told.append)
    assert len(told) == 2
    untimed = [{key: value for key, value in row.items() if "seconds" not in key} for row in again]
    assert untimed == [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(lines)
    assert evaluate(model, edits, grid, tmp_path, scorers, told.append) == again and len(told) == 2


def test_methods_are_compared_on_the_same_edits(finished, tmp_path):
    """If a method is worse by 0.01 on every edit, the interval of the difference is a point, even if the edits differ.

    Rejects separate intervals for the two means, which are as wide as the scatter of the edits, and a difference of the
    wrong sign.
    """
    out, _, edits, _, rows = finished
    first = [row for row in rows if row["method"] in (UNEDITED, "sdedit")]
    worse = [{**row, "method": "flow_edit"} for row in first[1:]]
    worse = [{**row, "scores": {**row["scores"], "l1": [v + 0.01 for v in row["scores"]["l1"]]}} for row in worse]
    shutil.copytree(out / "results", tmp_path / "results")
    for path in (tmp_path / "results").glob("sdedit*"):
        shutil.copy(path, path.with_name(path.name.replace("sdedit", "flow_edit")))
    report(edits, [*first, *worse], tmp_path)
    assert "| flow_edit | -0.0100 [-0.0100, -0.0100] | 100% | 0, 0 |" in (tmp_path / "table.md").read_text()


def test_rows_of_another_run_are_refused(model, finished):
    out, grid, edits, scorers, _ = finished
    before = (out / "rows.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"^out=.*steps \(2, not 3\)"):
        evaluate(model, edits, dataclasses.replace(grid, steps=3), out, scorers)
    changed = [dataclasses.replace(edits[0], target_prompt="heart"), *edits[1:]]
    with pytest.raises(ValueError, match=r"^out=.*other edits"):
        evaluate(model, changed, grid, out, scorers)
    assert (out / "rows.jsonl").read_bytes() == before


def test_another_strength_guidance_or_seed_compiles_no_program(model, finished, tmp_path, compilations):
    _, grid, edits, scorers, _ = finished
    other = dataclasses.replace(grid, strengths=(0.55,), guidances=(1.0, 3.5), seeds=(9,))
    run = lambda folder, grid: evaluate(model, edits, grid, tmp_path / folder, scorers) and jnp.zeros(())  # noqa: E731
    run("a", dataclasses.replace(other, strengths=(0.5,)))  # compiles what scoring needs
    assert compilations(lambda: run("b", other)) == 0


def test_a_result_that_is_not_finite_is_an_error(model, tmp_path):
    edits = tiny_edits(3)
    results = np.stack([edit.source for edit in edits])
    results[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^edit='edit 1': .*nan"):
        Scorers().score(edits, results)
    with pytest.raises(ValueError, match=r"^edit='edit 0': .*nan"):
        evaluate(dataclasses.replace(model, broken=np.float32(np.nan)), edits, ONE, tmp_path, Scorers())
    assert [json.loads(line).get("method") for line in (tmp_path / "rows.jsonl").read_text().splitlines()[1:]] == [
        UNEDITED
    ]
    with pytest.raises(ValueError, match=r"^edit='edit 2': .*clip.*nan"):
        Scorers(clip=lambda images, texts: np.array([1.0, 2.0, np.nan])).score(edits, np.zeros((3, 8, 8, 3)))


def test_a_missing_score_is_not_part_of_a_mean():
    """Two of three edits have a truth, and two have pixels to keep, so means are over two. Rejects zeros instead."""
    first, second, third = tiny_edits(3)
    third = dataclasses.replace(third, truth=None, mask=np.zeros((8, 8, 1), np.float32))
    second = dataclasses.replace(second, truth=-np.sign(second.source))
    results = np.stack([first.source, second.source, third.source + np.float32(0.1) * (third.source < 0)])
    scores = Scorers().score([first, second, third], results)
    assert scores["l1"][2] is None and scores["kept"][1] is None and None not in scores["change"]
    rows = [{**dataclasses.asdict(Setting("sync_sde", 0.5, 1.0, k)), "evaluations": 1, "seconds": None} for k in (0, 1)]
    (one,) = gather([{**row, "first_seconds": None, "scores": scores} for row in rows])
    everything = np.ones(3, bool)
    assert one.mean("l1", everything) == pytest.approx(np.mean(floats(scores["l1"][:2])))
    assert one.mean("kept", everything) == pytest.approx(scores["kept"][2] / 2)
    assert one.mean("l1", np.array([False, False, True])) is None


def _rigged(edits, choosing):
    """Rows in which strength 0.3 is the best on the edits of `choosing`, and the worst on the others."""
    rows = []
    for method, strength, chosen, reported in (
        (UNEDITED, 0.0, 0.5, 0.5),
        ("sync_sde", 0.3, 0.1, 0.9),
        ("sync_sde", 0.6, 0.2, 0.2),
        ("sdedit", 0.3, 0.4, 0.4),
    ):
        scores = {name: [float(v) for v in np.where(choosing, chosen, reported)] for name in ("l1", "kept", "change")}
        row = {"evaluations": 4, "seconds": 0.5, "first_seconds": None, "scores": scores}
        rows.append(dataclasses.asdict(Setting(method, strength, 1.0, 0)) | row)
    return rows


def test_settings_are_chosen_on_one_half_and_reported_on_the_other(tmp_path):
    """Rejects a choice on the reported half (0.2), and a report on the choosing half (0.1) or on all edits (0.5)."""
    edits = tiny_edits(30)
    choosing = choosing_half(edits)
    rows = _rigged(edits, choosing)
    (tmp_path / "results").mkdir()
    for row in rows[1:]:
        file = Setting(*_setting(row)).file
        save_png(tmp_path / "results" / file, to_image(np.full((8, 160, 3), row["strength"], np.float32)))
    lines = {line["method"]: line for line in report(edits, rows, tmp_path)}
    assert lines["sync_sde"]["strength"] == 0.3
    score = lines["sync_sde"]["scores"]["l1"]
    assert score["mean"] == pytest.approx(0.9) and score["edits"] == (~choosing).sum()
    assert json.loads((tmp_path / "table.json").read_text())[1]["scores"]["l1"]["mean"] == pytest.approx(0.9)
    assert "| sync_sde | 0.3 | 1 | 0.9000 [0.9000, 0.9000] |" in (tmp_path / "table.md").read_text()


def test_the_halves_are_even_in_every_family_and_do_not_depend_on_the_order():
    edits = tiny_edits(41)
    choosing = choosing_half(edits)
    assert abs(int(choosing.sum()) - int((~choosing).sum())) <= 1
    for family in ("family 0", "family 1"):
        inside = np.array([edit.family == family for edit in edits])
        assert abs(int((choosing & inside).sum()) - int((~choosing & inside).sum())) <= 2
    backwards = choosing_half(edits[::-1])[::-1]
    np.testing.assert_array_equal(backwards, choosing)


def test_higher_is_better_only_for_some_scores():
    edits = tiny_edits(8)
    everything = np.ones(8, bool)
    rows = _rigged(edits, everything)
    rows[1]["scores"]["clip"], rows[2]["scores"]["clip"] = [30.0] * 8, [20.0] * 8
    found = gather(rows[1:3])
    assert best_settings(found, "l1", everything)["sync_sde"].strength == 0.3
    assert best_settings(found, "clip", everything)["sync_sde"].strength == 0.3
    assert criterion(found) == "l1"


def test_the_report_shows_the_results_of_the_chosen_settings(finished):
    out, _, edits, _, rows = finished
    lines = report(edits, rows, out)
    assert [line["method"] for line in lines] == [UNEDITED, "sdedit", "ode_inversion"]
    sheet = np.asarray(Image.open(out / "sheet.png"))
    assert shown_edits(edits) == [0, 1, 2, 3]
    for number, line in enumerate(lines[1:], 2):
        strip = np.asarray(
            Image.open(out / "results" / Setting(line["method"], line["strength"], line["guidance"], 0).file)
        )
        cells = sheet[4 + 68 * number : 68 * (number + 1), 214:][:, : 4 * 68]
        for i in range(4):
            np.testing.assert_array_equal(cells[::8, 68 * i : 68 * i + 64 : 8], strip[:, 8 * i : 8 * i + 8])
    with Image.open(out / "curves.png") as curves:
        assert len(curves.getcolors(2**24)) > 20  # there are lines of several colours


def test_without_a_truth_the_middle_setting_is_reported(model, tmp_path):
    edits = tiny_edits(3, truth=False)
    rows = evaluate(model, edits, dataclasses.replace(ONE, strengths=(0.3, 0.6, 0.9)), tmp_path, Scorers())
    lines = report(edits, rows, tmp_path)
    assert lines[1]["strength"] == 0.6 and list(lines[1]["scores"]) == ["change"]
    assert "middle setting" in (tmp_path / "table.md").read_text()


def test_methods_get_masks_only_if_asked_for(model, tmp_path):
    mask = np.zeros((8, 8, 1), np.float32)
    mask[:4] = 1.0
    edits = [dataclasses.replace(edit, mask=mask) for edit in tiny_edits(2, truth=False)]
    kept = [
        evaluate(model, edits, dataclasses.replace(ONE, masked=masked), tmp_path / str(masked), Scorers())[1]["scores"]
        for masked in (False, True)
    ]
    assert kept[1]["kept"] == [0.0, 0.0] and min(kept[0]["kept"]) > 0.01 and min(kept[1]["change"]) > 0.01

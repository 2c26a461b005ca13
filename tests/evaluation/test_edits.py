"""Edits from files of three layouts, and the rule that chooses the emoji benchmark."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sdejax.evaluation.edits import decode_run_lengths, read_edits, subset
from sdejax.evaluation.emoji_edits import attributes, choose_edits, emoji_edits
from sdejax.media.images import to_array

SHAPE = (8, 8, 3)


def _picture(path, seed=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return to_array(pixels)


def _write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_json_lines(tmp_path):
    source, truth = _picture(tmp_path / "a" / "x.png", 0), _picture(tmp_path / "y.png", 1)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 1:6] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    rows = [
        {"image": "a/x.png", "source": "red", "target": "blue", "truth": "y.png", "mask": "m.png", "name": "n"},
        {"image": "y.png", "source": "one", "target": "two", "family": "f"},
    ]
    first, second = read_edits(_write(tmp_path / "m.jsonl", rows), SHAPE)
    np.testing.assert_array_equal(first.source, source)
    np.testing.assert_array_equal(first.truth, truth)
    np.testing.assert_array_equal(first.mask[..., 0], mask / 255)
    assert (first.name, first.source_prompt, first.target_prompt) == ("n", "red", "blue")
    assert (second.name, second.family, second.truth, second.mask) == ("0002", "f", None, None)


def test_a_picture_of_another_size_is_resized_like_its_truth_and_mask(tmp_path):
    """A wide picture is padded above and below, so a change in its left half is in the left half of the model's image.

    Rejects a truth or a mask that is stretched to the square, which changes the padded rows too.
    """
    pixels = np.full((20, 40, 3), 100, np.uint8)
    changed = pixels.copy()
    changed[5:15, :20] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    Image.fromarray(changed).save(tmp_path / "y.png")
    Image.fromarray((changed[..., 0] == 200).astype(np.uint8) * 255).save(tmp_path / "m.png")
    row = {"image": "x.png", "source": "a", "target": "b", "truth": "y.png", "mask": "m.png"}
    (edit,) = read_edits(_write(tmp_path / "m.jsonl", [row]), SHAPE)
    expected = np.zeros((8, 8), bool)
    expected[3:5, :4] = True  # 40 x 40 with the border; 5 pixels become one of the model's
    np.testing.assert_array_equal(np.abs(edit.truth - edit.source).max(-1) > 0.1, expected)
    np.testing.assert_array_equal(edit.mask[..., 0] == 1.0, expected)


def test_flow_edits_layout(tmp_path):
    """The yaml file has flowedit_data/x.png, but the data set has its pictures in Images."""
    picture = _picture(tmp_path / "Images" / "bear.png")
    (tmp_path / "flowedit.yaml").write_text(
        "-\n    init_img:  flowedit_data/bear.png\n    source_prompt: A bear in\n        a stream.\n"
        "    target_prompts:\n     - A panda in\n       a stream.\n     - A tiger.\n"
        "    target_codes:\n     - 1_panda\n     - 2_tiger\n"
        "-\n    input_img: bear.png\n    source_prompt: b\n    target_prompts: [c]\n"
    )
    edits = read_edits(tmp_path / "flowedit.yaml", SHAPE)
    assert [edit.name for edit in edits] == ["bear/1_panda", "bear/2_tiger", "bear/1"]
    assert (edits[0].source_prompt, edits[0].target_prompt) == ("A bear in a stream.", "A panda in a stream.")
    assert all(edit.truth is None and edit.mask is None for edit in edits)
    np.testing.assert_array_equal(edits[1].source, picture)
    other = _picture(tmp_path / "elsewhere" / "bear.png", 5)
    np.testing.assert_array_equal(
        read_edits(tmp_path / "flowedit.yaml", SHAPE, tmp_path / "elsewhere")[0].source, other
    )


def _runs(mask):
    """Encode a mask as PIE-Bench describes it: the start and length of each run along the rows."""
    flat, runs = mask.reshape(-1), []
    for i, value in enumerate(flat):
        if value and (i == 0 or not flat[i - 1]):
            runs += [i, 1]
        elif value:
            runs[-1] += 1
    return runs


def test_run_length_masks_decode_to_their_rectangles():
    """Rejects columns instead of rows, starts counted from the run before, and runs that end one pixel too early."""
    for top, bottom, left, right in [(2, 5, 1, 4), (3, 4, 2, 9), (1, 6, 0, 11)]:
        mask = np.zeros((7, 11), bool)
        mask[top:bottom, left:right] = True
        expected = mask.copy()
        expected[[0, -1]] = expected[:, [0, -1]] = True  # the rule of the benchmark's own evaluation
        np.testing.assert_array_equal(decode_run_lengths(_runs(mask), 7, 11)[..., 0], expected)
    np.testing.assert_array_equal(decode_run_lengths([70, 1000], 7, 11)[..., 0], decode_run_lengths([], 7, 11)[..., 0])
    for wrong in ([1, 2, 3], [-1, 2], [78, 1]):
        with pytest.raises(ValueError, match="run-length mask"):
            decode_run_lengths(wrong, 7, 11)


def test_pie_benchs_layout(tmp_path):
    _picture(tmp_path / "annotation_images" / "1_change_object_80" / "0.png", 0, (512, 512))
    mask = np.zeros((512, 512), bool)
    mask[128:256, 64:320] = True
    row = {
        "image_path": "1_change_object_80/0.png",
        "original_prompt": "a [cat] on a mat",
        "editing_prompt": "a [dog] on a mat",
        "editing_instruction": "to a dog",
        "editing_type_id": "1",
        "blended_word": "cat dog",
        "mask": _runs(mask),
    }
    (tmp_path / "mapping_file.json").write_text(json.dumps({"111": row}))
    (edit,) = read_edits(tmp_path / "mapping_file.json", SHAPE)
    assert (edit.name, edit.family) == ("111", "change object")
    assert (edit.source_prompt, edit.target_prompt) == ("a cat on a mat", "a dog on a mat")
    inner = np.zeros((8, 8), bool)
    inner[2:4, 1:5] = True
    np.testing.assert_array_equal(edit.mask[1:-1, 1:-1, 0] == 1.0, inner[1:-1, 1:-1])
    assert (edit.mask[0] > 0).all() and (edit.mask[0, 2:-1] < 0.1).all()


BAD = {
    "none.jsonl": ("", "manifest="),
    "m.csv": ("a,b", r"\.jsonl"),
    "a.jsonl": ("", "manifest="),
    "b.jsonl": ('{"image": "x.png", "source": "a"', "line 1: .*JSON"),
    "c.jsonl": ('{"image": "x.png", "source": "a"}', "line 1: target "),
    "d.jsonl": ('{"image": "x.png", "source": "a", "target": "b", "masc": "m"}', "'masc'.*image, source, target, mask"),
    "e.jsonl": ('{"image": "x.png", "source": "a", "target": 3}', "target=3: must be"),
    "f.jsonl": ('\n{"image": "no.png", "source": "a", "target": "b"}', r"line 2: image=.*no\.png.*no such file"),
    "g.jsonl": ('{"image": "x.png", "source": "a", "target": "b", "truth": "w.png"}', "is 9 x 8, must be the image's"),
    "h.jsonl": ('{"image": "x.png", "source": "a", "target": "b", "name": "n"}\n' * 2, "'n'"),
    "a.yaml": ("a: 1", "list of"),
    "b.yaml": ("- [", "yaml"),
    "c.yaml": ("- init_img: x.png\n  source_prompt: a\n", "entry 1: target_prompts must be"),
    "d.yaml": (
        "- init_img: x.png\n  source_prompt: a\n  target_prompts: [b, c]\n  target_codes: [d]\n",
        "has 2 target_prompts and 1 target_codes",
    ),
    "a.json": ("[]", "must be PIE-Bench's"),
    "b.json": ('{"0": {"image_path": "x.png", "original_prompt": "a"}}', "entry '0': editing_prompt "),
    "c.json": (
        '{"0": {"image_path": "x.png", "original_prompt": "a", "editing_prompt": "b", "mask": [0, 1]}}',
        "is 8 x 8, must be 512 x 512",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_of_a_manifest_is_one_sentence_that_names_the_place(tmp_path, name):
    text, said = BAD[name]
    for folder in ("", "annotation_images"):
        _picture(tmp_path / folder / "x.png")
    _picture(tmp_path / "w.png", size=(9, 8))
    if name != "none.jsonl":
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_edits(tmp_path / name, SHAPE)
    assert name in str(error.value)
    assert "\n" not in str(error.value) or name == "b.yaml"


ROLES = (
    "artist",
    "astronaut",
    "cook",
    "farmer",
    "judge",
    "mechanic",
    "pilot",
    "singer",
    "student",
    "teacher",
    "welder",
    "elf",
)
TONES = ("", ": light", ": medium-light", ": medium", ": medium-dark", ": dark")
NAMES = [
    *(
        f"{who} {role}{tone}{' skin tone' if tone else ''}"
        for who in ("man", "woman", "person")
        for role in ROLES
        for tone in TONES
    ),
    *(
        f"{who}{f'{tone} skin tone,' if tone else ':'} {hair}"
        for who in ("man", "woman")
        for tone in TONES
        for hair in ("red hair", "curly hair", "white hair", "bald", "beard")
    ),
    *(
        f"{hour}{half}"
        for hour in ("one", "two", "three", "four", "five", "ten")
        for half in (" o\u2019clock", "-thirty")
    ),
    *(f"{colour} {thing}" for colour in ("red", "blue", "light blue", "green") for thing in ("heart", "circle")),
    *(f"{phase} moon" for phase in ("new", "full", "first quarter", "waning crescent")),
    *(f"{way} arrow" for way in ("up", "down", "left", "up-left")),
    "grinning face",
    "moon cake",
    "bow and arrow",
    "men holding hands: dark skin tone, light skin tone",
]
HELD_OUT = {name for name in NAMES if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0}


def _drawings(names):
    return {name: np.full((2, 2, 1), i, np.float32) for i, name in enumerate(names)}


def test_half_of_306_edits_have_held_out_targets():
    chosen = choose_edits(_drawings(NAMES), HELD_OUT)
    assert len(chosen) == len({(source, target) for _, source, target in chosen}) == 306
    assert sum(target in HELD_OUT for _, _, target in chosen) == 153
    for family, source, target in chosen:
        assert source != target
        common = set(attributes(source)) & set(attributes(target))
        assert [found for found, _ in common] == [family]
    edits = emoji_edits(_drawings(NAMES), HELD_OUT)
    assert [(edit.family, edit.source_prompt, edit.target_prompt) for edit in edits] == chosen
    assert all(edit.unseen == (edit.target_prompt in HELD_OUT) for edit in edits)


def test_the_choice_does_not_depend_on_the_order_and_is_spread_evenly():
    """If a family has fewer edits than another by more than one, all its pairs are edits."""
    drawings = _drawings(NAMES)
    assert choose_edits(dict(reversed(drawings.items())), HELD_OUT) == choose_edits(drawings, HELD_OUT)
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b and set(attributes(a)) & set(attributes(b))]
    for unseen in (True, False):
        available = Counter(
            next(iter(set(attributes(a)) & set(attributes(b))))[0] for a, b in pairs if (b in HELD_OUT) == unseen
        )
        seen = Counter(family for family, _, b in choose_edits(drawings, HELD_OUT) if (b in HELD_OUT) == unseen)
        most = max(seen.values())
        assert all(seen[family] >= min(count, most - 1) for family, count in available.items())


def test_equal_drawings_are_not_an_edit_and_too_few_names_are_an_error():
    drawings = _drawings(NAMES)
    before = choose_edits(drawings, HELD_OUT)
    _, one, other = next(edit for edit in before if edit[0] == "gender")
    drawings[one] = drawings[other]
    after = choose_edits(drawings, HELD_OUT)
    assert len(after) == 306
    assert not any({source, target} == {one, other} for _, source, target in after)
    with pytest.raises(ValueError, match=r"^data: .*153"):
        choose_edits(_drawings(NAMES[:20]), HELD_OUT)


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("woman: medium-dark skin tone, red hair", {"skin tone", "gender", "hair"}),
        (
            "men holding hands: dark skin tone, light skin tone",
            {"gender"},
        ),  # which of the two tones differs is not known
        ("woman and man holding hands", set()),
        ("human", set()),
        ("three o\u2019clock", {"clock hour"}),
        ("light blue heart", {"colour of a heart"}),
        ("large orange diamond", {"colour of another thing", "size"}),
        ("last quarter moon face", {"moon phase"}),
        ("moon cake", set()),
        ("down-left arrow", {"direction"}),
        ("left-right arrow", set()),
        ("bow and arrow", set()),
        ("backhand index pointing up: dark skin tone", {"direction", "skin tone"}),
    ],
)
def test_attributes_of_a_name(name, families):
    assert {family for family, _ in attributes(name)} == families


def test_a_subset_does_not_depend_on_the_order():
    edits = emoji_edits(_drawings(NAMES), HELD_OUT)
    some = subset(edits, 40)
    assert len(some) == 40
    assert {edit.name for edit in some} == {edit.name for edit in subset(edits[::-1], 40)}
    assert {edit.name for edit in subset(edits, 20)} < {edit.name for edit in some}
    # Rejects the hashes of the rule, the smallest of which all belong to the family with the most pairs.
    assert len({edit.family for edit in some}) >= 5

"""The emoji data set: its names, and the names that are held out."""

from train.emoji import held_out, read_emoji_test


def test_the_held_out_rule_is_fixed():
    # These are facts of SHA-256. No name may ever move from one side to the other.
    assert [held_out(name) for name in ("three o’clock", "red heart", "ogre", "grinning face")] == [  # noqa: RUF001
        True,
        False,
        True,
        False,
    ]


def test_fully_qualified_names_are_read(tmp_path):
    (tmp_path / "t.txt").write_text(
        "# subgroup: face-smiling\n"
        "1F600 ; fully-qualified # \U0001f600 E1.0 grinning face\n"
        "263A ; unqualified # \u263a E0.6 smiling face\n"
        "1F468 1F3FD ; fully-qualified     # \U0001f468\U0001f3fd E1.0 man: medium skin tone\n"
    )
    emoji = list(read_emoji_test(tmp_path / "t.txt"))
    assert [(e.text, e.name) for e in emoji] == [
        ("\U0001f600", "grinning face"),
        ("\U0001f468\U0001f3fd", "man: medium skin tone"),
    ]
    assert emoji[0].subgroup == "face-smiling"

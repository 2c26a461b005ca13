"""A folder per class: the class of an image is the name of its first folder below the root, in any format."""

import io
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from sdejax.training.data.sources import class_names, open_images

EMOJI = Path(__file__).parents[1] / "emoji"
FILES = sorted(path.name for path in EMOJI.glob("*.png"))


def _write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _tree():
    """The emoji as paths below class folders; those of "cat" are in folders of their own."""
    folders = ("dog", "cat/a", "cat/b", "an owl")
    return [(f"{folders[i % 4]}/{name}", (EMOJI / name).read_bytes()) for i, name in enumerate(FILES)]


def _write_tree(folder):
    for name, data in _tree():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _shards(folder, top=""):
    """Two shards; each has images of two of the three classes."""
    folder.mkdir()
    tree = sorted(_tree())
    for number, part in enumerate((tree[:7], tree[7:])):
        _write_tar(folder / f"{number}.tar", [(top + name, data) for name, data in part])
    return folder


def _zipped(path, top):
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{top}notes.txt", "no image")
        for name, data in _tree():
            packed.writestr(top + name, data)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda top: _write_tree(top / "tree"),
        lambda top: _zipped(top / "x.zip", ""),
        lambda top: _zipped(top / "x.zip", "data/train/"),
        lambda top: _shards(top / "shards"),
        lambda top: _shards(top / "shards", "./train/"),
    ],
    ids=["folder", "zip", "zip of a folder", "shards", "shards of a folder"],
)
def test_a_class_is_the_first_folder_below_the_root(tmp_path, make):
    # Rejects the folder that holds the image (cat/a), the folder of an archive in which all classes lie, and classes
    # that are numbered in each shard alone.
    images = open_images(make(tmp_path), classes=True)
    expected = {(EMOJI / name).read_bytes(): ("dog", "cat", "cat", "an owl")[i % 4] for i, name in enumerate(FILES)}
    assert [expected[images.read(i)] for i in range(12)] == list(images.classes)
    assert class_names(images) == ("an owl", "cat", "dog")
    assert list(images.captions) == [""] * 12
    assert len(set(map(id, images.classes))) == 3  # a name per class, not per image, goes to another process
    assert pickle.loads(pickle.dumps(images)).classes == images.classes


def test_classes_are_read_only_if_asked_for(tmp_path):
    images = open_images(_write_tree(tmp_path / "tree"))
    assert list(images.classes) == [""] * 12 and class_names(images) == ()


def test_a_captioned_set_may_have_classes(tmp_path):
    folder = _write_tree(tmp_path / "tree")
    (folder / "dog" / FILES[0]).with_suffix(".txt").write_text("a caption")
    images = open_images(folder, captioned=True, classes=True)
    found = dict(zip(images.names, zip(images.captions, images.classes, strict=True), strict=True))
    assert found[f"dog/{FILES[0]}"] == ("a caption", "dog")
    assert found[f"cat/a/{FILES[1]}"] == ("", "cat")


def test_one_class_is_a_class(tmp_path):
    # Rejects a class folder that is taken for the folder of a whole archive, and left out.
    _write_tar(tmp_path / "x.tar", [(f"cat/{name}", b"") for name in FILES[:2]])
    assert list(open_images(tmp_path / "x.tar", classes=True).classes) == ["cat", "cat"]


def _loose(folder):
    shutil.copy(EMOJI / FILES[0], _write_tree(folder / "x") / "loose.png")
    return folder / "x"


def _empty_class(folder):
    for name in ("bird/in", ".cache", "fish"):
        (_write_tree(folder / "x") / name).mkdir(parents=True, exist_ok=True)
    (folder / "x/bird/in/notes.txt").write_text("no image")
    return folder / "x"


def _loose_in_shard(folder):
    _write_tar(_shards(folder / "x") / "2.tar", [("a.png", b"")])
    return folder / "x"


def _no_images(folder):
    (folder / "x/cat").mkdir(parents=True)
    return folder / "x"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_loose, "classes=True: 'loose.png' lies directly in the root"),
        (_loose_in_shard, "classes=True: '2.tar:a.png' lies directly in the root"),
        (_empty_class, "classes=True: the folder 'bird' has no image"),
        (_no_images, "has no image"),
    ],
)
def test_a_fault_of_class_folders_is_one_sentence(tmp_path, make, named):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=r"^data=") as raised:
        open_images(path, classes=True)
    assert str(raised.value).startswith(f"data={str(path)!r}: {named}")
    assert "\n" not in str(raised.value)


def test_tables_have_no_class_folders(tmp_path):
    for file in FILES[:2]:
        table = pa.table({"image": [(EMOJI / file).read_bytes()], "label": [0]})
        with pa.OSFile(str(tmp_path / f"{file}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=r"^data=.*: classes=True: "):
        open_images(tmp_path, classes=True)
    assert list(open_images(tmp_path).classes) == ["", ""]

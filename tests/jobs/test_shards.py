"""Shards: other programs can read them, and what goes wrong leaves no damaged one."""

import errno
import hashlib
import io
import json
import tarfile

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from sdejax.jobs.manifest import MANIFEST, read_manifest, write_manifest
from sdejax.jobs.parquet import Parquet
from sdejax.jobs.ranges import NumberRange, blocks
from sdejax.jobs.shard_sink import ShardSink
from sdejax.jobs.shards import Shard, ShardFormat, finished, numbers_in, remove_unfinished
from sdejax.jobs.sinks import Destination, EncodedImage
from sdejax.jobs.tar import Tar
from sdejax.media.images import png_bytes
from sdejax.runtime.storage import Folder
from sdejax.training.data.sources import open_images

TAR, PARQUET = Tar(), Parquet()
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def images_of(numbers, prompt="red heart", name=lambda number: f"{number:06d}"):
    return [
        EncodedImage(n, png_bytes(Image.fromarray(PICTURES[n % 6])), {"key": name(n), "seed": n, "prompt": prompt})
        for n in numbers.numbers
    ]


def write(folder, numbers, kind: ShardFormat = TAR, **how):
    shard = Shard(folder, numbers, kind)
    for image in images_of(numbers, **how):
        shard.add(image)
    return shard.close()


@pytest.fixture
def folder(tmp_path):
    return Folder.open(str(tmp_path / "out"))


@pytest.mark.parametrize("kind", [TAR, PARQUET], ids=["tar", "parquet"])
def test_our_own_training_reads_the_images_and_captions(folder, tmp_path, kind):
    with folder.created():
        for numbers in (NumberRange(0, 2), NumberRange(3, 5)):
            write(folder, numbers, kind, prompt="a red heart")
    images = open_images(tmp_path / "out", captioned=True, cache=tmp_path / "cache")
    assert list(images.captions) == ["a red heart"] * 6
    for i in range(6):
        with Image.open(io.BytesIO(images.read(i))) as image:
            np.testing.assert_array_equal(image, PICTURES[i])


def test_a_tar_is_as_webdataset_reads_it(folder):
    # WebDataset groups adjacent files whose names agree up to the first dot, so a dot in a key must be escaped.
    with folder.created():
        write(folder, NumberRange(0, 2), name=lambda number: f"a.b{number}%")
    samples = {}
    with tarfile.open(fileobj=io.BytesIO(folder.read("0000000000-0000000002.tar"))) as tar:
        for member in tar:
            key, _, field = member.name.partition(".")
            file = tar.extractfile(member)
            assert file
            samples.setdefault(key, {})[field] = file.read()
    assert [sorted(sample) for sample in samples.values()] == [["json", "png", "txt"]] * 3
    for number, sample in enumerate(samples.values()):
        about = json.loads(sample["json"])
        assert about == {"key": f"a.b{number}%", "seed": number, "prompt": "red heart"}
        assert sample["txt"] == b"red heart"
        np.testing.assert_array_equal(Image.open(io.BytesIO(sample["png"])), PICTURES[number])


def test_the_index_and_the_manifest_list_the_images(folder):
    with folder.created():
        entry = write(folder, NumberRange(3, 5))
        write(folder, NumberRange(0, 2), PARQUET)
        write_manifest(folder, {"format": "tar"}, False, finished(folder))
    data = folder.read("0000000003-0000000005.tar")
    assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    index = json.loads(folder.read("0000000003-0000000005.json"))["index"]
    for image, line in zip(images_of(NumberRange(3, 5)), index, strict=True):
        assert line == {**image.about, "sha256": hashlib.sha256(image.png).hexdigest()}
    manifest = read_manifest(folder)
    assert manifest
    assert [shard["file"].partition(".")[0] for shard in manifest["finished"]] == [
        "0000000000-0000000002",
        "0000000003-0000000005",
    ]
    assert (manifest["job"], manifest["images"], manifest["complete"]) == ({"format": "tar"}, 6, False)
    write_manifest(folder, {"format": "tar"}, True, finished(folder))
    assert (read_manifest(folder) or {})["complete"]


def test_a_damaged_shard_is_not_finished(folder, tmp_path):
    with folder.created():
        shards = [write(folder, NumberRange(2 * i, 2 * i + 1)) for i in range(5)]
        write_manifest(folder, {"format": "tar"}, True, finished(folder))
    out = tmp_path / "out"
    cut = out / shards[1]["file"]
    cut.write_bytes(cut.read_bytes()[:-1])
    (out / shards[2]["file"]).unlink()
    (out / "0000000006-0000000007.json").write_text("{")
    (out / MANIFEST).unlink()
    assert numbers_in(finished(folder)) == [NumberRange(0, 1), NumberRange(8, 9)]
    # With a manifest the indexes are not read, but the lengths are compared all the same.
    assert numbers_in(finished(folder, shards)) == [NumberRange(0, 1), NumberRange(6, 9)]
    # Files that will be overwritten stay until then. Others would remain beside the new ones, and are removed.
    remove_unfinished(folder, finished(folder), [NumberRange(2, 3), NumberRange(4, 7)])
    names = {name.partition(".")[0] for name in folder.sizes()}
    assert names == {f"{a:010d}-{a + 1:010d}" for a in (0, 2, 8)}


def test_a_missing_image_does_not_count_as_done(folder):
    with folder.created():
        shard = Shard(folder, NumberRange(0, 4), TAR)
        for image in (images_of(NumberRange(0, 4))[i] for i in (0, 1, 3)):
            shard.add(image)
        assert shard.close()["missing"] == [2, 4]
    assert numbers_in(finished(folder)) == [NumberRange(0, 1), NumberRange(3, 3)]
    write(folder, NumberRange(2, 2))  # another shard may have the missing image
    assert numbers_in(finished(folder)) == [NumberRange(0, 3)]


@pytest.mark.parametrize("kind", [TAR, PARQUET], ids=["tar", "parquet"])
def test_an_abandoned_shard_leaves_nothing(folder, tmp_path, kind):
    with folder.created():
        shard = Shard(folder, NumberRange(0, 5), kind)
        shard.add(images_of(NumberRange(0, 0))[0])
        shard.abandon()
    assert list((tmp_path / "out").iterdir()) == []


def test_if_two_write_the_same_file_the_last_to_finish_replaces_the_other(folder):
    # Rejects one hidden name for both: their bytes would mix, and the last to finish would not find the file.
    with folder.created():
        with folder.writing("a") as first:
            first.write(b"a longer text")
            with folder.writing("a") as second:
                second.write(b"a text")
            assert folder.read("a") == b"a text"
        assert folder.read("a") == b"a longer text"
        assert folder.sizes() == {"a": 13}


def test_unfinished_files_are_removed_and_no_others(folder, tmp_path):
    others = {".hidden", ".somebodys.part", "a.part", "a.tar"}
    with folder.created():
        for name in others:
            (tmp_path / "out" / name).touch()
        writing = folder.writing("b.tar")
        writing.__enter__().write(b"half")
        folder.remove_unfinished()
        with pytest.raises(OSError, match=r"^b\.tar: "):
            writing.__exit__(None, None, None)
    assert {path.name for path in (tmp_path / "out").iterdir()} == others


class _FullDisk(MemoryFileSystem):
    """A disk that has room for `room` bytes."""

    protocol, room = "full", 20_000

    def _open(self, path, mode="rb", *args, **kwargs):
        file = super()._open(path, mode, *args, **kwargs)
        if mode == "wb":
            write = file.write

            def limited(data):
                _FullDisk.room -= len(data)
                if _FullDisk.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

            file.write = limited
        return file


def test_a_full_disk_keeps_finished_shards():
    fsspec.register_implementation("full", _FullDisk, clobber=True)
    folder = Folder.open("full://out")
    with folder.created():
        write(folder, NumberRange(0, 1))
        with pytest.raises(OSError, match="No space left"):
            write(folder, NumberRange(2, 3))
    assert numbers_in(finished(folder)) == [NumberRange(0, 1)]
    assert sorted(folder.sizes()) == ["0000000000-0000000001.json", "0000000000-0000000001.tar"]


@pytest.mark.parametrize("processes", [2, 3, 32, 64])
@pytest.mark.parametrize("images", [1000, 50_000])
def test_no_process_has_much_more_to_do_than_another(processes, images):
    """At most a tenth more than the mean. Rejects shards of 1,000: of 50,000 images 14 of 64 processes had none."""
    size = ShardSink(TAR, Destination(Folder.open("memory://none"), count=processes)).block_size(32, images)
    shards = list(blocks([NumberRange(0, images - 1)], size))
    assert size <= 1000 and sum(one.size for one in shards) == images
    assert max(sum(one.size for one in shards[i::processes]) for i in range(processes)) < 1.1 * images / processes


def test_a_shard_has_the_size_that_is_asked_or_a_thousand():
    def size(asked, processes, images):
        destination = Destination(Folder.open("memory://none"), shard_size=asked, count=processes)
        return ShardSink(TAR, destination).block_size(32, images)

    assert [size(7, 64, 50_000), size(None, 1, 1500), size(None, 64, 50_000_000)] == [7, 1000, 1000]

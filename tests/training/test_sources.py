"""A set of images is the same set in every format, and a fault of a set is one sentence."""

import concurrent.futures
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sdejax.training.data.batches import batches
from sdejax.training.data.sources import open_images

EMOJI = Path(__file__).parents[1] / "emoji"
ROWS = [json.loads(line) for line in (EMOJI / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
CAPTION = {row["file"]: row["caption"] for row in ROWS}
FILES = sorted(CAPTION)
FORMATS = (
    "folder", "sidecars", "zip", "zip of a folder", "folder of zips", "tar", "shards", "parquet", "parquet file",
    "arrow", "stream", "binary column",
)  # fmt: skip


def _write_zip(path, files, method, extra):
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in [*files, *extra]:
            member = zipfile.ZipInfo(name)
            member.compress_type = method
            member.extra = b"\xfe\xca\x04\x00more"  # other programs keep times and owners there
            packed.writestr(member, data)


def _write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _table(names, binary=False):
    images = [(EMOJI / name).read_bytes() for name in names]
    if binary:
        return pa.table({"text": [CAPTION[name] for name in names], "picture": pa.array(images, pa.large_binary())})
    images = [{"bytes": data, "path": name} for data, name in zip(images, names, strict=True)]
    return pa.table({"label": range(len(names)), "image": images, "caption": [CAPTION[name] for name in names]})


def _write_arrow(path, table, make=pa.ipc.new_file):
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """The 12 emoji of tests/emoji in every format, each written in a different order."""
    top = tmp_path_factory.mktemp("formats")
    for name in ("sidecars/a", "zips", "shards", "parquet", "arrow", "stream"):
        (top / name).mkdir(parents=True)
    pictures = [(name, (EMOJI / name).read_bytes()) for name in FILES]
    listing = (EMOJI / "captions.jsonl").read_bytes()
    texts = [(name.replace("png", "txt"), (CAPTION[name] + "\n").encode()) for name in FILES]
    objects = [(name.replace("png", "json"), json.dumps({"caption": CAPTION[name]}).encode()) for name in FILES]
    for name, data in pictures + texts:
        (top / "sidecars/a" / name).write_bytes(data)
    extra = [("dataset.json", b'{"labels": null}'), ("captions.jsonl", listing)]
    _write_zip(top / "edm.zip", pictures[::-1], zipfile.ZIP_STORED, extra)
    inside = [(f"emoji/{name}", data) for name, data in pictures]
    _write_zip(top / "folder.zip", inside, zipfile.ZIP_DEFLATED, [("emoji/captions.jsonl", listing)])
    for number in range(2):
        part = slice(6 * number, 6 * number + 6)
        _write_zip(top / f"zips/{number}.zip", pictures[part], zipfile.ZIP_DEFLATED, texts[part])
        _write_tar(top / f"shards/{number:04d}.tar", [*objects[part], *pictures[part]])
        pq.write_table(_table(FILES[part]), top / f"parquet/train-{number:05d}-of-00002.parquet", row_group_size=4)
        _write_arrow(top / f"arrow/data-{number:05d}-of-00002.arrow", _table(FILES[part]))
    _write_tar(top / "all.tar", [(f"./{name}", data) for name, data in (texts + pictures)[::-1]])
    pq.write_table(_table(FILES), top / "all.parquet", compression="zstd")
    _write_arrow(top / "stream/all.arrow", _table(FILES), pa.ipc.new_stream)
    _write_arrow(top / "binary.arrow", _table(FILES, binary=True))
    paths = [EMOJI, *(top / name for name in (
        "sidecars", "edm.zip", "folder.zip", "zips", "all.tar", "shards", "parquet", "all.parquet", "arrow", "stream",
        "binary.arrow",
    ))]  # fmt: skip
    return top, dict(zip(FORMATS, paths, strict=True))


def _open(formats, kind, **options):
    column = {"image_column": "picture"} if kind == "binary column" else {}
    return open_images(formats[1][kind], captioned=True, cache=formats[0] / "cache", **column, **options)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_set_is_the_same_in_every_format(formats, kind):
    # Rejects the order in which an archive was written, captions of a neighbour, bytes that start or end at a wrong
    # place, and images of one shard that are read from another.
    images = _open(formats, kind)
    assert [images.read(i) for i in range(len(images.names))] == [(EMOJI / name).read_bytes() for name in FILES]
    assert list(images.captions) == [CAPTION[name] for name in FILES]
    assert len(set(images.names)) == 12


@pytest.mark.parametrize("kind", FORMATS[1:])
def test_a_set_trains_alike_in_every_format(formats, kind):
    tokens = np.arange(12)[:, None]
    settings = {"batch": 5, "seed": 3, "flip": True, "crop": "random"}
    ours, theirs = (batches(_open(formats, k), (8, 4, 3), tokens, **settings) for k in (kind, "folder"))
    for _ in range(4):
        one, other = next(ours), next(theirs)
        for key in ("image", "tokens", "undecodable"):
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_source_goes_to_another_process(formats, kind):
    # It is pickled after it was read from. Rejects a pickle that holds open files, memory maps or images, and one that
    # cannot be read from.
    images = _open(formats, kind)
    before = images.read(7)
    data = pickle.dumps(images)
    assert len(data) < 5000  # the 12 emoji have 17 kB
    assert pickle.loads(data).read(7) == before


@pytest.mark.parametrize("kind", ["zip", "zip of a folder", "tar", "stream"])
def test_threads_read_at_the_same_time(formats, kind):
    # Rejects a file position that the threads share.
    images = _open(formats, kind)
    order = np.random.default_rng(0).integers(0, 12, 2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for index, data in zip(order, pool.map(images.read, order), strict=True):
            assert data == (EMOJI / FILES[index]).read_bytes()


def test_a_name_says_where_the_image_is(formats):
    names = {kind: _open(formats, kind).names[7] for kind in FORMATS}
    assert names["folder"] == FILES[7]
    assert names["sidecars"] == f"a/{FILES[7]}"
    assert names["zip of a folder"] == f"folder.zip:emoji/{FILES[7]}"
    assert names["tar"] == f"all.tar:{FILES[7]}"
    assert names["shards"] == f"0001.tar:{FILES[7]}"
    assert names["parquet"] == "train-00001-of-00002.parquet:1"


def test_captions_are_read_only_if_asked_for(formats):
    images = open_images(formats[1]["shards"])
    assert list(images.captions) == [""] * 12


def test_a_set_may_lack_some_captions(tmp_path):
    for name in FILES[:3]:
        shutil.copy(EMOJI / name, tmp_path)
    (tmp_path / FILES[1]).with_suffix(".txt").write_text("a caption")
    assert list(open_images(tmp_path, captioned=True).captions) == ["", "a caption", ""]
    some = _table(FILES[:3]).set_column(2, "caption", pa.array([None, "a caption", ""]))
    _write_arrow(tmp_path / "x.arrow", some)
    assert list(open_images(tmp_path / "x.arrow", captioned=True).captions) == ["", "a caption", ""]


def test_files_that_do_not_belong_to_the_set_are_left_out(tmp_path):
    # These are hidden files (macOS puts ._NAME beside NAME), other fields of a sample, and the intermediate results
    # that the datasets library writes beside a set. There is no "b.png", so "b.1.png" and "b.2.png" are both samples.
    data = (EMOJI / FILES[0]).read_bytes()
    names = ["a.png", "a.depth.png", "b.1.png", "b.2.png", "._a.png", "d/.x/c.png", "d/c.png"]
    _write_tar(tmp_path / "x.tar", [(name, data) for name in names])
    kept = [f"x.tar:{name}" for name in ("a.png", "b.1.png", "b.2.png", "d/c.png")]
    assert list(open_images(tmp_path / "x.tar").names) == kept
    for name in ("tree/.x", "tree/d", "tables"):
        (tmp_path / name).mkdir(parents=True)
    for name in (".x/c.png", "d/c.png", "d/._c.png", "d/notes.txt"):
        (tmp_path / "tree" / name).write_bytes(data)
    assert list(open_images(tmp_path / "tree").names) == ["d/c.png"]
    for name in ("data.arrow", "cache-0123.arrow"):
        _write_arrow(tmp_path / "tables" / name, _table(FILES[:2]))
    assert list(open_images(tmp_path / "tables").names) == ["data.arrow:0", "data.arrow:1"]


def test_a_pattern_selects_files_of_a_folder(formats):
    images = open_images(f"{formats[0]}/shards/*1.tar")
    assert list(images.names) == [f"0001.tar:{name}" for name in FILES[6:]]


def _cached(cache):
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_parquet_is_unpacked_once(tmp_path):
    source, cache = tmp_path / "x.parquet", tmp_path / "new/cache"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(_table(FILES), source, **plain)
    open_images(source, cache=cache)
    first, size = _cached(cache), source.stat().st_size
    open_images(source, cache=cache)
    assert _cached(cache) == first
    assert len(first) == 1
    pq.write_table(_table(FILES[::-1]), source, **plain)
    assert source.stat().st_size == size  # only the time differs
    assert open_images(source, cache=cache).read(0) == (EMOJI / FILES[-1]).read_bytes()


def test_what_a_killed_unpacking_leaves_is_never_used(tmp_path):
    # The system kills the process after it has written 8 kB of about 20 kB. The file that it leaves is not used. It may
    # also be the file of a process that is still writing, so it is removed only after a long time without a write.
    source, cache = tmp_path / "x.parquet", tmp_path / "cache"
    pq.write_table(_table(FILES), source)
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from sdejax.training.data.sources import open_images\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "open_images(sys.argv[1], cache=Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(source), str(cache)]
    done = subprocess.run(command, cwd=EMOJI.parents[1], capture_output=True, check=False)
    assert done.returncode == -signal.SIGXFSZ, done.stderr.decode()
    (left,) = cache.iterdir()
    for age, stays in ((0.0, True), (86400.0, False)):
        os.utime(left, (time.time() - age,) * 2)
        assert open_images(source, cache=cache).read(11) == (EMOJI / FILES[11]).read_bytes()
        assert left.exists() == stays
        (whole,) = cache.glob("*.arrow")
        whole.unlink()


def test_unpacking_that_fails_leaves_nothing(tmp_path):
    # The first file is whole and is written before the failure. Of the second file only the footer is whole.
    for name in ("a", "b"):
        pq.write_table(_table(FILES), tmp_path / f"{name}.parquet", compression="zstd")
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    data[4:-footer] = b"\xff" * (len(data) - 4 - footer)
    (tmp_path / "b.parquet").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"cannot be unpacked into cache="):
        open_images(tmp_path, cache=tmp_path / "cache")
    assert _cached(tmp_path / "cache") == {}


def _broken_header(folder):
    """Write a tar file whose third header is damaged; tarfile takes it for the end of the file."""
    _write_tar(folder / "x.tar", [(name, bytes(512)) for name in ("a.png", "b.png", "c.png", "d.png")])
    data = bytearray((folder / "x.tar").read_bytes())
    data[2048:2148] = b"x" * 100
    (folder / "x.tar").write_bytes(bytes(data))
    return folder / "x.tar"


def _write(name, data):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return folder / name.split("/")[0]

    return make


def _packed(name, **options):
    def make(folder):
        files = [(file, (EMOJI / file).read_bytes()) for file in FILES[:2]]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".zip"):
            _write_zip(folder / name, files, options.get("method", zipfile.ZIP_STORED), options.get("extra", []))
        elif name.endswith(".tar"):
            _write_tar(folder / name, files)
        elif name.endswith(".arrow"):
            _write_arrow(folder / name, _table(FILES).select(options.get("columns", ["image"])))
        else:
            pq.write_table(_table(FILES).select(options.get("columns", ["image"])), folder / name)
        return folder / name

    return make


def _cut(make, keep):
    def cut(folder):
        path = make(folder)
        path.write_bytes(path.read_bytes()[:keep])
        return path

    return cut


def _splits(folder):
    for split in ("train", "test"):
        _packed(f"x/{split}-00000-of-00001.parquet")(folder)
    return folder / "x"


def _differing(folder):
    _packed("x/a.arrow")(folder)
    _packed("x/b.arrow", columns=["label"])(folder)
    return folder / "x"


def _differing_types(folder):
    _packed("x/a.arrow")(folder)
    _write_arrow(folder / "x/b.arrow", _table(FILES, binary=True).rename_columns(["text", "image"]))
    return folder / "x"


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda folder: folder / "x", {}, "no such file or folder"),
        (lambda folder: folder, {}, "has no image; looked for .bmp, .gif, .jpeg"),
        (_write("x.png", b""), {}, "must be a folder of images, or .zip"),
        (_write("x.tar.gz", b""), {}, "'x.tar.gz' is a compressed tar file"),
        (_write("x/0.tgz", b""), {}, "'0.tgz' is a compressed tar file"),
        (_write("x.zip", b"text"), {}, "'x.zip' is damaged, or not a zip file"),
        (_cut(_packed("x.zip"), 2000), {}, "'x.zip' is damaged, or not a zip file"),
        (_packed("x.zip", method=zipfile.ZIP_BZIP2), {}, "packed in a rare way"),
        (_write("x.tar", b"text"), {}, "'x.tar' is damaged, or not a tar file"),
        (_cut(_packed("x.tar"), 3500), {}, "'x.tar' is damaged, or not a tar file (unexpected end"),
        (_cut(_packed("x.tar"), 3000), {}, "'x.tar' is damaged, no header at byte 2560"),
        (_broken_header, {}, "'x.tar' is damaged, no header at byte 2048"),
        (_write("x.parquet", b"text" * 9), {}, "'x.parquet' is damaged, or not a parquet file"),
        (_cut(_packed("x.parquet"), 900), {}, "'x.parquet' is damaged, or not a parquet file"),
        (_write("x.arrow", b"text" * 9), {}, "'x.arrow' is damaged, or not an arrow file"),
        (_cut(_packed("x.arrow"), 900), {}, "'x.arrow' is damaged, or not an arrow file"),
        (_packed("x.arrow"), {"image_column": "img"}, "image_column='img': no such column; there are image"),
        (_packed("x.arrow", columns=["label"]), {"image_column": "label"}, "has the type int64, must hold encoded"),
        (_packed("x.arrow"), {"captioned": True}, "caption_column='caption' or 'text': no such column"),
        (
            _packed("x.arrow", columns=["image", "label"]),
            {"captioned": True, "caption_column": "label"},
            "caption_column='label': has the type int64, must hold strings",
        ),
        (_differing, {}, "'b.arrow' has other columns than 'a.arrow'"),
        (_differing_types, {}, "'b.arrow' has other columns than 'a.arrow'"),
        (_splits, {}, "holds the splits test and train; name the files of one, as in '*test*'"),
        (_packed("x.zip"), {"captioned": True}, "has no captions; they must be in a captions.jsonl"),
        (_packed("x.tar"), {"captioned": True}, "has no captions"),
        (_packed("x.zip", extra=[("captions.jsonl", '{"file": "a"}')]), {"captioned": True}, "captions.jsonl, line 1"),
        (_packed("x.zip", extra=[(f"{FILES[0][:-4]}.txt", b"\xff")]), {"captioned": True}, "must be UTF-8 text"),
    ],
)
def test_a_fault_is_one_sentence(tmp_path, make, options, said):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=r"^data=") as raised:
        open_images(path, cache=tmp_path / "cache", **options)
    assert str(raised.value).startswith(f"data={str(path)!r}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_pyarrow_the_extra_is_named(formats, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'sdejax\[data\]'"):
        open_images(formats[1]["arrow"])


def test_a_damaged_image_in_an_archive_harms_no_other(tmp_path):
    # If the bytes of a deflated member are damaged, reading it raises an error that the pipeline counts. The other
    # members can be read.
    path = _packed("x.zip", method=zipfile.ZIP_DEFLATED)(tmp_path)
    data = bytearray(path.read_bytes())
    data[30 + len(FILES[0]) : 48] = b"\xff" * (18 - len(FILES[0]))
    path.write_bytes(bytes(data))
    images = open_images(path)
    with pytest.raises(ValueError, match=r"x\.zip': damaged at byte"):
        images.read(0)
    Image.open(io.BytesIO(images.read(1))).load()


def test_an_archive_that_is_cut_short_during_a_run_is_detected(formats, tmp_path):
    # Rejects half of a file, which some decoders turn into a picture.
    shutil.copy(formats[1]["tar"], tmp_path / "x.tar")
    images = open_images(tmp_path / "x.tar")
    os.truncate(tmp_path / "x.tar", 5000)
    with pytest.raises(ValueError, match="cut short"):
        images.read(8)

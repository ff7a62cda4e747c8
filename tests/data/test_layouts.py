"""Shards as others write them are read as they are, and ours are read by webdataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import labelled_members, picture, png, write_folder

from depth_anything_train.data.images import decode_image
from depth_anything_train.data.index import build_index
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.schema import BadShard
from depth_anything_train.data.shards import Shard, ShardFolder

pytestmark = pytest.mark.filterwarnings(  # webdataset leaves its files to the garbage collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def encode(number: int, extension: str) -> bytes:
    return cv2.imencode(f".{extension}", picture(number)[..., ::-1])[1].tobytes()


def write_tar(path: Path, members: list[tuple[str, bytes]], *, folders: tuple[str, ...] = ()) -> Path:
    """A tar as GNU tar makes it: times, owners, and entries for its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname = len(content), 1680000000, 1000, "somebody"
            tar.addfile(info, io.BytesIO(content))
    return path


def write_img2dataset(folder: Path, shards: int = 3, samples: int = 4) -> list[int]:
    """What img2dataset leaves: tar, parquet and _stats.json a shard; downloads that failed are absent."""
    import webdataset

    numbers = []
    for shard in range(shards):
        folder.mkdir(exist_ok=True)
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as sink:
            for place in range(samples):
                if place == 1:  # a download that failed
                    continue
                number = shard * samples + place
                meta = {"key": f"{shard:05d}{place:04d}", "caption": "a picture", "status": "success", "sha256": "0"}
                sink.write({"__key__": meta["key"], "jpg": encode(number, "jpg"), "txt": "a picture", "json": meta})
                numbers.append(number)
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": samples, "successes": samples - 1}))
    return numbers


def numbers_of(folder: ShardFolder) -> list[int]:
    """Blue is the number of a picture; JPEG and WebP may be off by a few."""
    return [int(np.median(decode_image(record.image)[..., 2])) for record in folder]


def test_img2dataset__is_read_as_it_is(tmp_path: Path) -> None:
    expected = write_img2dataset(tmp_path / "laion")
    folder = ShardFolder(tmp_path / "laion")
    assert folder.info["kind"] == "images" and [shard.name for shard in folder.shards] == [
        f"{n:05d}.tar" for n in range(3)
    ]
    assert np.abs(np.subtract(numbers_of(folder), expected)).max() <= 2
    assert folder[0].key == "000000000" and folder[0].meta["caption"] == "a picture"
    assert set(folder[0].members) == {"jpg", "json", "txt"}


@pytest.mark.parametrize("prefix", ["", "./", "sa_000000/", "./images/"])
def test_sa1b__is_read_as_it_is(tmp_path: Path, prefix: str) -> None:
    """Images beside their masks as JSON, in any order of the names, with or without a folder."""
    members = []
    for number in (7, 1, 23):
        masks = {"image": {"image_id": number, "file_name": f"sa_{number}.jpg"}, "annotations": []}
        members += [(f"{prefix}sa_{number}.jpg", encode(number, "jpg"))]
        members += [(f"{prefix}sa_{number}.json", json.dumps(masks).encode())]
    write_tar(tmp_path / "sa" / "sa_000000.tar", members, folders=(prefix,) if prefix else ())
    folder = ShardFolder(tmp_path / "sa")
    clean = prefix.removeprefix("./")
    assert [record.key for record in folder] == [f"{clean}sa_{number}" for number in (7, 1, 23)]
    assert [record.meta["image"]["image_id"] for record in folder] == [7, 1, 23]
    assert np.abs(np.subtract(numbers_of(folder), [7, 1, 23])).max() <= 2


def test_images__of_any_extension_and_with_dots_in_their_keys_are_found(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpeg", "c.png", "d.webp", "e.JPG", "f.JPEG", "photo.v2.jpg", "2024.05.01/x.y.z.png"]
    members = [(name, encode(number, name.rpartition(".")[2].lower())) for number, name in enumerate(names)]
    write_tar(tmp_path / "mixed" / "0.tar", members)
    folder = ShardFolder(tmp_path / "mixed")
    assert [record.key for record in folder] == [name.rpartition(".")[0] for name in names]
    assert np.abs(np.subtract(numbers_of(folder), range(len(names)))).max() <= 3


def test_webdatasets_shard_writer__is_read_as_it_is(tmp_path: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(tmp_path / "%06d.tar"), maxcount=4, verbose=0) as sink:
        for number in range(10):
            sink.write({"__key__": f"k{number}", "png": png(picture(number)), "json": {"number": number}})
    folder = ShardFolder(tmp_path)
    assert folder.starts == [0, 4, 8, 10]
    assert numbers_of(folder) == [record.meta["number"] for record in folder] == list(range(10))


def test_webdataset__reads_our_labelled_shards(tmp_path: Path) -> None:
    """Its keys end at the first dot, so a label is there under its two-part extension."""
    import webdataset

    samples = [[(f"p{n}", labelled_members(n)) for n in range(start, start + 3)] for start in (0, 3)]
    write_folder(tmp_path / "shards", {"kind": "labelled"}, samples)
    pattern = str(tmp_path / "shards" / "{00000..00001}.tar")
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False))
    assert [
        (sample["__key__"], {name: content for name, content in sample.items() if not name.startswith("__")})
        for sample in theirs
    ] == [sample for shard in samples for sample in shard]


# -- Damage that webdataset does not notice. --------------------------------------------------------------------------


def test_folder__names_a_tar_of_others_that_is_cut_between_members(tmp_path: Path) -> None:
    write_img2dataset(tmp_path / "laion")
    tar = tmp_path / "laion" / "00001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: Shard(tar, build_index(tar)).entry(2).offset])
    with pytest.raises(BadShard, match=r"00001\.tar cannot be used .* cut off"):
        ShardFolder(tmp_path / "laion")


def test_folder__names_a_tar_of_others_that_changed_after_it_was_indexed(tmp_path: Path) -> None:
    write_img2dataset(tmp_path / "laion")
    ShardFolder(tmp_path / "laion")
    tar = tmp_path / "laion" / "00001.tar"
    members = [(f"other{n}.jpg", encode(n, "jpg")) for n in range(5)]
    write_tar(tar, members)
    with pytest.raises(BadShard, match=r"00001\.tar has .* bytes, its index says"):
        ShardFolder(tmp_path / "laion")


@pytest.mark.parametrize("change", [-1, 1, 2**32])
def test_index__names_a_wrong_count(tmp_path: Path, change: int) -> None:
    folder = write_folder(
        tmp_path / "shards", {"kind": "labelled"}, [[(f"p{n}", labelled_members(n)) for n in range(3)]]
    )
    index = index_path(folder / "00000.tar")
    content = index.read_bytes()
    index.write_bytes(content[:12] + (3 + change).to_bytes(8, "little") + content[20:])
    with pytest.raises(BadShard, match=r"index of .*00000\.tar is damaged"):
        ShardFolder(folder)

from __future__ import annotations

import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_files import link, photo, write_files, write_lmdb, write_tar, write_zip

from data_engine.ingest.archives import LARGEST_MEMBER, NO_FILE, archive_name, is_archive, list_archive, open_archive
from data_engine.ingest.images import Images
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

PHOTOS = {f"folder/{n}.jpg": photo(n) for n in (2, 10, 1)}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda folder: write_zip(folder / "a.zip", PHOTOS),
    "stored.zip": lambda folder: write_zip(folder / "a.zip", PHOTOS, zipfile.ZIP_STORED),
    "tar": lambda folder: write_tar(folder / "a.tar", PHOTOS),
    "tar.gz": lambda folder: write_tar(folder / "a.tar.gz", PHOTOS),
    "mdb": lambda folder: write_lmdb(folder / "a", {name[:-4]: data for name, data in PHOTOS.items()}) / "data.mdb",
}


class Unpickled:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def drops(images: Images) -> dict[str, str]:
    """Reason of each item that cannot be used, by its place in the archive."""
    reasons = {}
    for item in images.items():
        try:
            images.load(item)
        except BadSample as error:
            reasons[str(item)] = error.reason
    return reasons


@pytest.mark.parametrize("kind", WRITERS)
def test_every_archive__holds_its_images_untouched_under_the_keys_of_its_folder(kind: str, tmp_path: Path) -> None:
    archive = WRITERS[kind](tmp_path)
    for root, folder in ((tmp_path, "a_"), (archive, "")):
        images = Images(str(root))
        samples = [images.load(item) for item in images.items()]
        assert {sample.key: sample.members["jpg"] for sample in samples} == {
            f"{folder}folder_{n}": photo(n) for n in (1, 2, 10)
        }
    order = [2, 10, 1] if kind != "mdb" else [1, 10, 2]  # an archive's own
    assert [sample.key for sample in samples] == [f"folder_{n}" for n in order]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_archive__can_be_read_by_a_process_that_did_not_list_it(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path)
    images, items = pickle.loads(pickle.dumps((Images(str(tmp_path)), Images(str(tmp_path)).items()[::-1])))
    assert [images.load(item).members["jpg"] for item in items] == [images.load(item).members["jpg"] for item in items]


@pytest.mark.parametrize("kind", ["zip", "stored.zip", "tar", "tar.gz"])
def test_every_archive__cut_off_anywhere_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    archive = WRITERS[kind](tmp_path)
    data = archive.read_bytes()
    for length in (0, 100, 511, 512, 700, len(data) // 3, len(data) - 1):
        if kind == "tar" and length == len(data) - 1:
            continue  # zeros behind the last member: nothing is lost
        archive.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"a\.(zip|tar|tar\.gz), but .+; get it again"):
            Images(str(tmp_path)).items()


def test_tar__cut_between_two_members_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", PHOTOS)
    places = list(list_archive(archive))
    archive.write_bytes(archive.read_bytes()[: places[1].position - 512])
    with pytest.raises(UserError, match="cut off or joined"):
        Images(str(tmp_path)).items()


def test_tar__two_joined_are_refused_as_the_second_would_be_lost(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", PHOTOS)
    archive.write_bytes(2 * archive.read_bytes())
    with pytest.raises(UserError, match="cut off or joined"):
        Images(str(tmp_path)).items()


def test_tar__a_flipped_bit_of_a_header_is_found(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", PHOTOS)
    data = bytearray(archive.read_bytes())
    data[list(list_archive(archive))[1].position - 500] ^= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="Expected a tar header at byte"):
        Images(str(tmp_path)).items()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_every_archive__whatever_is_damaged_ends_in_a_named_error(kind: str, tmp_path: Path) -> None:
    archive = WRITERS[kind](tmp_path)
    data, draw = archive.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 2, 20))):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        archive.write_bytes(damaged)
        try:
            drops(Images(str(archive), decode=False))
        except UserError:
            refused += 1
    assert 0 < refused <= 150


def test_zip__a_name_that_is_no_text_is_named_and_none_at_all_is_passed_over(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(""), photo(1))
        file.writestr("é.jpg", photo(2))
    assert [item.key for item in Images(str(archive)).items()] == ["é"]
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(UserError, match="get it again"):
        Images(str(archive)).items()


def test_lmdb__cut_off_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Reading beyond the end of a mapped file would kill the process."""
    data = write_lmdb(tmp_path / "a", {str(n): photo(n) * 100 for n in range(30)}) / "data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])
    with pytest.raises(UserError, match="bytes; it was cut off"):
        Images(str(tmp_path)).items()
    data.write_bytes(b"no database")
    with pytest.raises(UserError, match="data.mdb, but"):
        Images(str(tmp_path)).items()


def test_tar__links_devices_and_names_that_leave_it_are_counted_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(photo(0))
    members = {
        "soft.jpg": link("soft.jpg", str(tmp_path / "secret.jpg")),
        "up.jpg": link("up.jpg", "../secret.jpg"),
        "hard.jpg": link("hard.jpg", "good.jpg", tarfile.LNKTYPE),
        "device.jpg": link("device.jpg", "", tarfile.CHRTYPE),
        "../secret.jpg": photo(1),
        str(tmp_path / "secret.jpg"): photo(2),
        "good.jpg": photo(3),
    }
    archive = write_tar(tmp_path / "evil" / "a.tar", members)
    reasons = drops(Images(str(archive)))
    links = {f"{name} in a.tar": "not_a_file" for name in list(members)[:4]}
    assert reasons == links | {f"{name} in a.tar": "unsafe_name" for name in list(members)[4:6]}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "evil", "secret.jpg"]


def test_zip__links_names_that_leave_it_bombs_and_secrets_are_counted(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        soft = zipfile.ZipInfo("soft.jpg")
        soft.external_attr = 0o120777 << 16
        file.writestr(soft, "/etc/passwd")
        file.writestr("../up.jpg", photo(1))
        file.writestr("bomb.jpg", bytes(2**20))
        file.writestr("secret.jpg", photo(2))
        file.writestr("good.jpg", photo(3))
    data = bytearray(archive.read_bytes())
    bomb = data.rindex(b"PK\1\2", 0, data.rindex(b"bomb.jpg"))
    struct.pack_into("<I", data, bomb + 24, LARGEST_MEMBER + 1)
    for signature, flags in (
        (b"PK\1\2", 8),
        (b"PK\3\4", 6),
    ):  # the mark of encryption, in the directory and at the file
        name = data.index(b"secret.jpg", data.index(signature))
        start = data.rindex(signature, 0, name)
        data[start + flags] |= 1
    archive.write_bytes(data)
    expected = {"soft": "not_a_file", "../up": "unsafe_name", "bomb": "member_size", "secret": "encrypted"}
    assert drops(Images(str(archive))) == {f"{name}.jpg in a.zip": reason for name, reason in expected.items()}


def test_zip__a_bomb_that_lies_about_its_size_is_stopped_at_the_size_it_states(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"bomb.jpg": bytes(2**24), "good.jpg": photo(1)})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 1000)
    archive.write_bytes(data)
    assert drops(Images(str(archive))) == {"bomb.jpg in a.zip": "damaged_archive"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "mdb"])
def test_every_archive__pickles_and_damaged_images_are_counted_and_never_executed(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    members = {"pickle.jpg": pickle.dumps(Unpickled(marker)), "cut.jpg": photo(1)[:-20], "good.jpg": photo(2)}
    members |= {"script.jpg": b"#!/bin/sh\ntouch executed\n", "module.py": b"raise SystemExit", "empty.jpg": b""}
    if kind == "mdb":
        write_lmdb(tmp_path / "in" / "a", {n: data for n, data in members.items() if n.endswith("jpg")})
    else:
        {"zip": write_zip}.get(kind, write_tar)(tmp_path / "in" / f"a.{kind}", members)
    where = "a/data.mdb" if kind == "mdb" else f"a.{kind}"
    expected = {"pickle": "image_type", "cut": "truncated_image", "script": "image_type", "empty": "image_type"}
    found = drops(Images(str(tmp_path / "in")))
    assert found == {f"{name}.jpg in {where}": reason for name, reason in expected.items()}
    assert not marker.exists()


def test_zip__a_damaged_member_is_counted(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", PHOTOS, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[data.index(photo(10)) + 50] ^= 1
    archive.write_bytes(data)
    assert drops(Images(str(archive))) == {"folder/10.jpg in a.zip": "damaged_archive"}


@pytest.mark.parametrize("kind", ["zip", "tar", "mdb"])
def test_every_archive__cut_off_after_it_was_listed_gives_counted_drops(kind: str, tmp_path: Path) -> None:
    images = Images(str(WRITERS[kind](tmp_path)))
    items = list(images.items())
    archive = Path(images.root)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 4])
    open_archive.cache_clear()
    for item in items[1:]:
        with pytest.raises(BadSample) as caught:
            images.load(item)
        assert caught.value.reason == "damaged_archive"


def test_archives__hidden_members_and_what_is_no_image_are_passed_over(tmp_path: Path) -> None:
    members = {"__MACOSX/._1.jpg": b"x", ".cache/2.jpg": b"x", "notes.txt": b"x", "./3.JPG": photo(3), "4": photo(4)}
    for archive in (write_zip(tmp_path / "a.zip", members), write_tar(tmp_path / "a.tar", members)):
        assert [item.key for item in Images(str(archive)).items()] == ["3"]


def test_archive_name__is_the_folder_that_it_would_unpack_to() -> None:
    names = {"a/b.zip": "a/b", "a.tar.gz": "a", "A.TGZ": "A", "x/data.mdb": "x", "data.mdb": "", "b.v2.tar": "b.v2"}
    assert {path: archive_name(path) for path in names} == names and all(map(is_archive, names))
    assert not any(map(is_archive, ("a/lock.mdb", "mydata.mdb", "a.jpg", "tar", "a.tar.bz2")))


def test_list_archive__says_of_a_link_that_it_is_no_file(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {"a.jpg": link("a.jpg", "b.jpg"), "b.jpg": photo(1)})
    assert [place.size for place in list_archive(archive)] == [NO_FILE, len(photo(1))]


def test_images__read_files_and_archives_on_a_list_in_its_order(tmp_path: Path) -> None:
    write_files(tmp_path / "more", {"z.jpg": photo(1), "a": photo(2)})
    write_zip(tmp_path / "more" / "b.zip", {"1.jpg": photo(3)})
    (tmp_path / "photos.txt").write_text(f"more/z.jpg\r\n\nmore/b.zip\n{tmp_path}/more/a\nmore/gone.jpg\n")
    images = Images(str(tmp_path / "photos.txt"))
    items = images.items()
    assert [item.key for item in items][:2] + [items[3].key] == ["more_z", "more_b_1", "more_gone"]
    assert [images.load(item).members["jpg"] for item in items[:3]] == [photo(1), photo(3), photo(2)]
    assert drops(images) == {"more/gone.jpg": "unreadable_file"} and images.source == "photos"


def test_images__a_root_that_is_no_folder_archive_or_list_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1))
    with pytest.raises(UserError, match="a folder, an archive"):
        Images(str(tmp_path / "a.jpg")).items()
    (tmp_path / "a.txt").write_bytes(b"\x00\x01")
    with pytest.raises(UserError, match="no text"):
        Images(str(tmp_path / "a.txt")).items()


def test_images__files_come_before_archives_beside_them_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, {"a.jpg": photo(1)})
    write_zip(tmp_path / "labels.zip", {"b.jpg": photo(2)})
    assert [item.key for item in Images(str(tmp_path)).items()] == ["a"]
    assert "1 archives lie beside the photographs" in capsys.readouterr().err


def test_images__a_key_in_two_archives_is_dropped_the_second_time(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"b/c.jpg": photo(1)})
    write_tar(tmp_path / "a_b.tar", {"c.jpg": photo(2), "d.jpg": photo(3)})
    assert [(item.key, item.unique) for item in Images(str(tmp_path)).items()] == [
        ("a_b_c", True),
        ("a_b_c", False),
        ("a_b_d", True),
    ]


def test_images__an_archive_that_is_listed_twice_is_read_once(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{n}.jpg": photo(n) for n in range(50)})
    (tmp_path / "list.txt").write_text("a.tar\n./a.tar\n")
    assert [item.unique for item in Images(str(tmp_path / "list.txt")).items()] == [True] * 50 + [False] * 50


@pytest.mark.parametrize("kind", ["pipe", "folder", "large"])
def test_images__what_is_no_ordinary_file_is_counted(kind: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\n")
    if kind == "pipe":
        os.mkfifo(tmp_path / "a.jpg")
    elif kind == "folder":
        (tmp_path / "a.jpg").mkdir()
    else:
        with open(tmp_path / "a.jpg", "wb") as file:
            file.truncate(LARGEST_MEMBER + 1)
    expected = "member_size" if kind == "large" else "not_a_file"
    assert drops(Images(str(tmp_path / "list.txt"))) == {"a.jpg": expected}

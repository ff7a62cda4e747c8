import os

import pytest

from depth_anything_train.inference.sources import Video, as_video, find_source
from depth_anything_train.runtime import UserError


@pytest.fixture
def photos(tmp_path):
    """Empty files: what is in them is seen later."""
    for name in ("a.jpg", "more/b.PNG", "more/a.webp", "more/._a.webp", "notes.txt", "clip.mp4"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return tmp_path / "photos"


def test_find_source__of_a_folder_is_every_photograph_below_it(photos):
    found = find_source(str(photos))
    assert list(found) == [
        (photos / "a.jpg", "a"),
        (photos / "more" / "a.webp", "more/a"),
        (photos / "more" / "b.PNG", "more/b"),
    ]
    assert len(found) == 3


def test_find_source__an_image_is_called_by_its_name(photos):
    assert list(find_source(str(photos / "more" / "b.PNG"))) == [(photos / "more" / "b.PNG", "b")]


def test_find_source__of_a_pattern_is_called_below_the_folder_that_all_share(photos):
    assert [name for _, name in find_source(str(photos / "more" / "*"))] == ["a", "b"]
    assert [name for _, name in find_source(str(photos / "**" / "a.*"))] == ["a", "more/a"]


def test_find_source__a_pattern_for_any_kind_of_file_takes_photographs_alone(photos):
    for name in ("a.json", "more/b.csv"):
        (photos / name).write_text("notes on a photograph")
    for pattern in ("*", "*.*", "a.*", "a*"):
        assert [name for _, name in find_source(str(photos / pattern))] == ["a"]
    assert [name for _, name in find_source(str(photos / "*.json"))] == ["a"]  # what was asked for by name


@pytest.mark.parametrize("pattern", ["", "*", "**/*"])
def test_find_source__says_how_many_files_are_of_a_format_that_is_not_read(pattern, photos, capsys):
    for name in ("IMG_1.HEIC", "more/IMG_2.heic", "scan.tiff", ".scan.tiff"):
        (photos / name).write_text("")
    find_source(f"{photos}/{pattern}")
    heic = 1 if pattern == "*" else 2
    assert capsys.readouterr().err.endswith(f" no JPEG, PNG or WebP: {heic} heic, 1 mp4, 1 tiff\n")


def test_find_source__of_nothing_but_other_formats_names_them(tmp_path):
    for name in ("a.heic", "a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    for source in (tmp_path, tmp_path / "*"):
        with pytest.raises(
            UserError, match="matches none; there are 1 heic, 2 mp4, but it takes JPEG, PNG or WebP, or"
        ):
            find_source(str(source))


def test_find_source__takes_one_video_at_a_time(photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"{photos}/clip.mp4\n")
    with pytest.raises(UserError, match="but got the pattern .*; videos are predicted one at a time"):
        find_source(str(photos / "*.mp4"))
    with pytest.raises(UserError, match="clip.mp4 is a video; videos are predicted one at a time"):
        find_source(str(tmp_path / "list.txt"))


def test_find_source__reads_a_list_with_one_path_a_line(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"photos/a.jpg\r\n\n{photos}/more/b.PNG \nphotos/a.jpg\nphotos/gone.jpg\n")
    found = find_source("list.txt")
    assert [name for _, name in found] == ["a", "gone", "more/b"]
    assert next(iter(found))[0].samefile(photos / "a.jpg")


def test_find_source__a_list_that_is_no_text_is_refused(tmp_path):
    for content in (b"\xff\xfe\x00", "a.jpg\n".encode("utf-16-le")):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match="no UTF-8 text"):
            find_source(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("nothing", ["", " ", "gone.jpg", "photos/*.gif", "photos/none"])
def test_find_source__says_that_nothing_was_found(nothing, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    with pytest.raises(UserError, match="got nothing" if not nothing.strip() else "matches none"):
        find_source(nothing)


def test_find_source__refuses_two_images_with_the_same_outputs(photos):
    (photos / "a.png").write_text("")
    with pytest.raises(UserError, match="same outputs, a;"):
        find_source(str(photos))


def test_find_source__outputs_are_no_photographs(photos):
    (photos / "out").mkdir()
    (photos / "out" / "a_color.png").write_text("")
    assert len(find_source(str(photos), out=photos / "out")) == 3
    with pytest.raises(UserError, match="apart from the photographs"):
        find_source(str(photos), out=photos / "more" / "..")


def test_find_source__outputs_that_fit_a_pattern_are_no_photographs(photos):
    (photos / "out" / "more").mkdir(parents=True)
    (photos / "out" / "more" / "b_color.PNG").write_text("")
    assert [name for _, name in find_source(str(photos / "**" / "*.PNG"), out=photos / "out")] == ["b"]
    with pytest.raises(UserError, match="apart from the photographs"):
        find_source(str(photos / "more" / "*"), out=photos / "more")


@pytest.mark.parametrize("pattern", [False, True])
def test_find_source__photographs_where_the_outputs_go_are_told_of(pattern, photos, capsys):
    out = photos / "out"
    out.mkdir()
    source = str(photos / "**" / "*") if pattern else str(photos)
    (out / "a_color.png").write_text("")
    (photos / "clip.mp4").rename(out / "clip_color.mp4")
    find_source(source, out=out)
    assert capsys.readouterr().err == ""
    for name in ("mine.png", "photo.JPG", "notes.txt", "._mine.png"):
        (out / name).write_text("")
    assert len(find_source(source, out=out)) == 3
    assert capsys.readouterr().err == f"Images in {out} that are not read, because the outputs go there: 2\n"


def test_find_source__a_number_is_a_camera_and_an_address_a_stream(photos, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    assert find_source(0) == find_source("0") == Video("/dev/video0", "camera0", "v4l2", live=True)
    monkeypatch.setattr("sys.platform", "darwin")
    assert find_source(1) == Video("1", "camera1", "avfoundation", live=True)
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(UserError, match="stream's address"):
        find_source(0)
    assert find_source("http://host/film.mp4?x=1") == Video("http://host/film.mp4?x=1", "film", live=True)
    assert find_source("rtsp://host:554").name == "host"
    assert find_source(str(photos / "clip.mp4")) == Video(str(photos / "clip.mp4"), "clip")


@pytest.mark.parametrize("name", ["2024", "film.mp4"])
def test_find_source__a_folder_named_like_a_camera_or_a_video_is_a_folder(photos, monkeypatch, name):
    monkeypatch.chdir(photos.parent)
    (photos.parent / name).symlink_to(photos)
    assert len(find_source(name)) == len(find_source(photos))


def test_find_source__follows_links_to_folders_elsewhere_once(tmp_path):
    for path in ("a/1.jpg", "a/z/real/3.jpg", "elsewhere/2.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "same").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "latest").symlink_to(tmp_path / "a" / "z" / "real")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "a")
    assert find_source(tmp_path / "a").files == ["1.jpg", "link/2.jpg", "z/real/3.jpg"]


@pytest.mark.parametrize("kind", ["one", "list"])
def test_find_source__outputs_beside_a_photograph_are_refused(photos, tmp_path, kind):
    photo = next(photos.rglob("*.jpg"))
    (tmp_path / "list.txt").write_text(str(photo))
    with pytest.raises(UserError, match="Expected outputs apart from the photographs"):
        find_source(photo if kind == "one" else tmp_path / "list.txt", out=photo.parent)


def test_as_video__a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30.mp4").write_bytes(b"")
    assert as_video("12:30.mp4").address == str(tmp_path / "12:30.mp4")


def test_video__shows_no_password():
    assert str(as_video("rtsp://me:secret@host/door")) == "rtsp://host/door"


def test_as_video__says_that_there_is_no_file(tmp_path):
    with pytest.raises(UserError, match="there is none"):
        as_video(tmp_path / "gone.mp4")


def test_find_source__a_folder_that_cannot_be_read_is_an_error_and_not_empty(photos, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        find_source(str(photos))

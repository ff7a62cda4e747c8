"""Folders of shards for the tests of the loader."""

import pytest
from pictures import disparity_label, labelled_members, picture, png, write_folder


@pytest.fixture
def labelled_folders(tmp_path):
    """Two folders, samples 0 to 8 and 9 to 12."""
    numbers = {"first": [range(0, 5), range(5, 9)], "second": [range(9, 13)]}
    return [
        write_folder(
            tmp_path / name, {"kind": "labelled"}, [[(f"p{n}", labelled_members(n)) for n in shard] for shard in shards]
        )
        for name, shards in numbers.items()
    ]


@pytest.fixture
def pseudo_folder(tmp_path):
    """Labels of samples 100 to 119 beside their images, in two shards."""
    shards = [range(100, 112), range(112, 120)]
    write_folder(
        tmp_path / "images", {"kind": "images"}, [[(f"p{n}", {"png": png(picture(n))}) for n in s] for s in shards]
    )
    labels = [[(f"p{n}", {"disparity.dz16": disparity_label(n)}) for n in s] for s in shards]
    return write_folder(tmp_path / "labels", {"kind": "pseudo_labels", "images": "../images"}, labels)

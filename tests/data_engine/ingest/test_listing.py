from __future__ import annotations

import pickle
from pathlib import Path

from archive_files import photo, write_files
from hypothesis import given
from hypothesis import strategies as st

from data_engine.ingest.archives import Place
from data_engine.ingest.base import unique_keys
from data_engine.ingest.images import Images
from data_engine.ingest.listing import Listing, Part, Photo

names = st.text(st.sampled_from("ab/._ \udcff"), min_size=1, max_size=3)
parts = st.lists(st.tuples(st.booleans(), st.lists(names, max_size=6)), max_size=4)


def listing_of(drawn: list[tuple[bool, list[str]]]) -> Listing:
    made = []
    for number, (packed, members) in enumerate(drawn):
        part = Part(f"{number}.tar" if packed else "", "a/" if packed else "")
        for position, name in enumerate(members):
            if packed:
                part.add_member(Place(name, position, 7))
            else:
                part.add_file(name)
        made.append(part)
    return Listing(made)


@given(parts, st.integers(-9, 30), st.integers(-9, 30), st.integers(1, 3))
def test_listing__is_the_sequence_that_its_items_make(
    drawn: list[tuple[bool, list[str]]], first: int, last: int, step: int
) -> None:
    listing = listing_of(drawn)
    items = list(listing)
    assert len(items) == len(listing) == sum(len(members) for _, members in drawn)
    assert [listing[n] for n in range(len(items))] == items
    assert listing[first:last:step] == items[first:last:step] and listing[::-1] == items[::-1]
    assert [item.unique for item in items] == unique_keys([item.key for item in items])
    named = [item.path if isinstance(item, Photo) else item.place.name for item in items]
    assert named == [name for _, members in drawn for name in members]


def test_listing__is_a_few_bytes_an_item_beside_the_names() -> None:
    part = Part("a.tar")
    for number in range(10_000):
        part.add_member(Place(f"{number:020d}.jpg", 512 * number, 100))
    assert len(pickle.dumps(part)) < 10_000 * (24 + 24 + 1)


def test_listing__of_files_is_what_it_was_before_archives(tmp_path: Path) -> None:
    """Folders that were begun earlier go on: the fingerprint in them is made of these texts."""
    write_files(tmp_path, {"a/photo 10.jpg": photo(1), "a/photo 2.JPG": photo(2), "a_photo 2.png": photo(3)})
    assert [repr(item) for item in Images(str(tmp_path)).items()] == [
        "Photo(key='a_photo_2', path='a/photo 2.JPG', unique=True)",
        "Photo(key='a_photo_10', path='a/photo 10.jpg', unique=True)",
        "Photo(key='a_photo_2', path='a_photo 2.png', unique=False)",
    ]

import json

import pytest

from depth_anything_train.runtime import UserError, fingerprint, import_extra, keyed_seed


def test_fingerprint__depends_on_content_not_on_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_keyed_seed__is_the_same_everywhere_and_differs_between_keys():
    assert keyed_seed(0, "crop", 1) == 13516250364532556437  # a change would change the order of every run ever started
    assert len({keyed_seed(seed, "crop", i) for seed in range(30) for i in range(30)}) == 900
    assert keyed_seed(1, 23) != keyed_seed(12, 3)


def test_import_extra__names_what_to_install():
    assert import_extra("json", extra="none") is json
    with pytest.raises(UserError, match=r"depth-anything-train\[video\]"):
        import_extra("no_such_library.part", extra="video")

import pytest
from omegaconf import OmegaConf

from depth_anything_train.composition import compose
from depth_anything_train.runtime import UserError
from depth_anything_train.values import check_value

TINY = ["experiment=tiny_teacher", "out=runs/x", "labelled=[a]"]


@pytest.mark.parametrize(
    "override",
    ["steps=abc", "steps=2.5", "steps=0", "workers=-1", "seed=-1", "size=abc", "data.batch.labelled=0", "seed=true"]
    + ["data.shuffle_shards=true", "data.shuffle_shards=0"],
)
def test_check_values__a_count_that_is_no_count_is_refused_by_its_key(override):
    with pytest.raises(UserError, match=rf"Expected a whole number of at least \d for {override.partition('=')[0]}"):
        compose("train", [*TINY, override])


@pytest.mark.parametrize(
    "override", ["engine=local engine.retries=-1", "engine=array engine.task=a", "engine=array engine.tasks=0"]
)
def test_check_values__the_settings_of_an_engine_are_counts(override):
    with pytest.raises(UserError, match=r"Expected a whole number of at least \d for engine"):
        compose("label", ["teacher=x", "shards=y", "out=z", *override.split()])


def test_check_values__a_word_where_a_number_stands_is_refused():
    with pytest.raises(UserError, match="Expected a number for optim.encoder_lr, but got 'abc'"):
        compose("train", [*TINY, "optim.encoder_lr=abc"])


@pytest.mark.parametrize("override", ["percentile=null", "device=null", "precision=null"])
def test_check_values__what_is_always_needed_cannot_be_null(override):
    with pytest.raises(UserError, match=rf"Expected a value such as .* for {override.partition('=')[0]}, but got null"):
        compose("predict", ["model=x", "source=y", "out=z", override])


def test_check_values__a_number_with_a_default_of_null_is_known_by_its_name():
    with pytest.raises(UserError, match=r"Expected a number for dataset.scale"):
        compose("prepare", ["dataset=pairs", "root=x", "out=y", "dataset.scale=abc"])


def test_check_values__a_folder_where_a_list_stands_is_shown_as_a_list():
    with pytest.raises(UserError, match=r'write "labelled=\[DIR\]"'):
        compose("evaluate", ["model=mean_map", "data=x", "out=y", "labelled=DIR"])


def test_check_values__a_size_may_be_a_pair():
    assert compose("train", [*TINY, "size=[28,42]"]).size == [28, 42]


@pytest.mark.parametrize(("command", "key"), [("predict", "out"), ("predict", "model"), ("export", "format")])
def test_check_values__what_has_no_default_cannot_be_null(command, key):
    with pytest.raises(UserError, match=f"Expected a value for {key}, but got null"):
        compose(command, [f"{key}=null"])


def test_check_values__a_list_whose_default_is_null_is_shown_as_a_list():
    with pytest.raises(UserError, match=r'Expected a list for aspects, but got 1.3; write "aspects=\[1.3\]"'):
        compose("label", ["aspects=1.3"])


@pytest.mark.parametrize("override", ["out=", "out=3"])
def test_check_values__an_empty_or_a_number_is_no_path(override):
    with pytest.raises(UserError, match="Expected a path for out"):
        compose("train", [*TINY, override])


def test_check_values__the_page_offers_several_models():
    assert compose("app", ["model=[runs/a,runs/b]"]).model == ["runs/a", "runs/b"]
    for wrong in ("model=5", "model=[runs/a,5]"):
        with pytest.raises(UserError, match="Expected a path for model"):
            compose("app", [wrong])
    with pytest.raises(UserError, match="Expected one path for model"):
        compose("predict", ["model=[a,b]", "source=s", "out=o"])


def test_check_values__a_number_is_no_file_either():
    with pytest.raises(UserError, match="Expected a path for measured"):
        compose("predict", ["model=m", "source=s", "out=o", "measured=5"])


def test_source__of_several_paths_is_told_how_to_be_written():
    with pytest.raises(UserError, match="Expected one source, but got .*'a.jpg', 'b.jpg'.*into a text file"):
        compose("predict", ["model=m", "source=[a.jpg,b.jpg]", "out=o"])


@pytest.mark.parametrize("model", ["{a: runs/x}", "[runs/x, runs/y]"])
def test_check_values__several_are_no_path(model):
    with pytest.raises(UserError, match="Expected one path for model"):
        compose("evaluate", [f"model={model}", "data=x", "out=y"])


def test_check_values__what_fits_is_left_alone():
    given = ["model.taps=spread", "trainer.devices=auto", "guard.clip_norm=1", "optim.warmup_steps=0", "steps=3"]
    assert compose("train", [*TINY, *given]).steps == 3


def test_check_value__true_or_false_takes_nothing_else():
    with pytest.raises(UserError, match="Expected true or false for deep"):
        check_value("deep", "foo", True)


def test_check_value__a_mapping_named_like_a_number_is_left_alone():
    check_value("data.batch", OmegaConf.create({"labelled": 2}), OmegaConf.create({"labelled": 4}))


@pytest.mark.parametrize("default", [False, True])
def test_check_value__a_switch_takes_both_positions_and_nothing_else(default):
    check_value("fast", True, default)
    check_value("fast", False, default)
    with pytest.raises(UserError, match="true or false"):
        check_value("fast", 1, default)


def test_check_value__nothing_is_written_to_an_address():
    with pytest.raises(UserError, match="path of this machine for out, but got 's3://bucket/run'"):
        check_value("out", "s3://bucket/run", None)
